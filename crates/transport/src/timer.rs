use std::io;
use std::time::Duration;

use env::Instant;

/// The one deadline of a poll, kept exactly: a timerfd where there is one, else by cutting the
/// poll's own timeout.
#[derive(Debug)]
pub(crate) struct Timer {
    wanted: Option<Instant>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    #[cfg(target_os = "linux")]
    Descriptor(descriptor::Descriptor),
    Poll,
}

impl Timer {
    pub(crate) fn new(registry: &mio::Registry, portable: bool) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if !portable {
            let kind = Kind::Descriptor(descriptor::Descriptor::new(registry)?);
            return Ok(Timer { wanted: None, kind });
        }
        let _ = (registry, portable);
        Ok(Timer { wanted: None, kind: Kind::Poll })
    }

    /// Sets the deadline. `now` is only asked for if the system must be told.
    pub(crate) fn set(
        &mut self,
        wanted: Option<Instant>,
        now: impl FnOnce() -> Instant,
    ) -> io::Result<()> {
        self.wanted = wanted.filter(|at| *at != Instant::NEVER);
        match &mut self.kind {
            #[cfg(target_os = "linux")]
            Kind::Descriptor(descriptor) => match self.wanted {
                Some(at) => descriptor.arm(at, now),
                // It may fire once for nothing, which costs less than a system call now.
                None => Ok(()),
            },
            Kind::Poll => Ok(()),
        }
    }

    /// How long the poll may sleep at most on account of this timer. `None` if the system wakes
    /// it by itself.
    pub(crate) fn timeout(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Descriptor(_) => None,
            Kind::Poll => self.wanted.map(|at| at - now()),
        }
    }

    /// The deadline that the caller must wake the poll for, if the system does not.
    pub(crate) fn unattended(&self) -> Option<Instant> {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Descriptor(_) => None,
            Kind::Poll => self.wanted,
        }
    }

    /// Whether the deadline is reached; takes it if so. `fired` tells that the descriptor had an
    /// event.
    pub(crate) fn take_due(&mut self, fired: bool, now: impl Fn() -> Instant) -> io::Result<bool> {
        match &mut self.kind {
            #[cfg(target_os = "linux")]
            Kind::Descriptor(descriptor) => {
                if !fired {
                    return Ok(false);
                }
                descriptor.disarmed();
            }
            Kind::Poll => {
                let _ = fired;
            }
        }
        let Some(at) = self.wanted else { return Ok(false) };
        if now() >= at {
            self.wanted = None;
            return Ok(true);
        }
        #[cfg(target_os = "linux")]
        if let Kind::Descriptor(descriptor) = &mut self.kind {
            descriptor.arm(at, now)?;
        }
        Ok(false)
    }
}

#[cfg(target_os = "linux")]
mod descriptor {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};

    use env::Instant;
    use mio::unix::SourceFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    use crate::Token;

    #[derive(Debug)]
    pub(super) struct Descriptor {
        fd: OwnedFd,
        /// When it will fire. It is set earlier at once, but later only when it has fired, which
        /// spares a system call for each deadline that is pushed back.
        armed: Option<Instant>,
    }

    impl Descriptor {
        pub(super) fn new(registry: &mio::Registry) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
            let raw = fd.as_raw_fd();
            registry.register(&mut SourceFd(&raw), Token::TIMER, mio::Interest::READABLE)?;
            Ok(Descriptor { fd, armed: None })
        }

        pub(super) fn arm(&mut self, at: Instant, now: impl FnOnce() -> Instant) -> io::Result<()> {
            if self.armed.is_some_and(|armed| armed <= at) {
                return Ok(());
            }
            // Zero would disarm it, so what is due fires in a nanosecond.
            let wait = (at - now()).as_nanos().clamp(1, i64::MAX as u128) as i64;
            let value =
                Timespec { tv_sec: wait / 1_000_000_000, tv_nsec: (wait % 1_000_000_000) as _ };
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let spec = Itimerspec { it_interval: zero, it_value: value };
            // Setting it also takes back an expiry that nobody has read, so it needs no read.
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
            self.armed = Some(at);
            Ok(())
        }

        pub(super) fn disarmed(&mut self) {
            self.armed = None;
        }
    }
}
