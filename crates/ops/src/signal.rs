use std::io;

use tokio::sync::watch;

/// What the operator or the system asked of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TERM: finish, hand over, close, report.
    Finish,
    /// HUP: bring up the successor.
    Replace,
    /// INT or Ctrl-C: stop now, but cleanly.
    Stop,
    /// A second signal while stopping: at once.
    Force,
}

/// Listens for signals from the first moment, so that one during the start is honoured.
#[derive(Clone, Debug)]
pub struct Signals(watch::Receiver<Option<Signal>>);

impl Signals {
    /// Starts listening on a thread of its own.
    ///
    /// # Errors
    ///
    /// If the system refuses the thread or the handlers.
    pub fn listen() -> io::Result<Signals> {
        let (sender, receiver) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match Sources::new() {
                    Ok(sources) => {
                        let _ = ready.send(Ok(()));
                        sources.forward(&sender).await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        })?;
        started.recv().map_err(|_| io::Error::other("the signal thread ended"))??;
        Ok(Signals(receiver))
    }

    /// The newest signal so far; waiting does not give it again.
    pub fn newest(&mut self) -> Option<Signal> {
        *self.0.borrow_and_update()
    }

    /// The newest signal that was not given before.
    pub fn newest_once(&mut self) -> Option<Signal> {
        match self.0.has_changed() {
            Ok(true) => self.newest(),
            _ => None,
        }
    }

    /// Waits for the next signal, from a thread without a runtime.
    pub fn wait(&mut self) -> Signal {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime without drivers needs nothing from the system");
        runtime.block_on(self.next())
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        loop {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(signal) = *self.0.borrow_and_update() {
                return signal;
            }
        }
    }
}

/// Sends a signal to another process. Its number must be that of a child that was not waited for.
///
/// # Errors
///
/// What the system says; `Unsupported` where there are no signals.
pub fn tell_process(number: u32, signal: Signal) -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal as System, kill_process};
        let signal = match signal {
            Signal::Finish => System::TERM,
            Signal::Replace => System::HUP,
            Signal::Stop => System::INT,
            Signal::Force => System::KILL,
        };
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(kill_process(pid, signal)?)
    }
    #[cfg(not(unix))]
    {
        let _ = (number, signal);
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(unix)]
struct Sources {
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Sources {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Sources {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn forward(mut self, to: &watch::Sender<Option<Signal>>) {
        let mut stopping = false;
        loop {
            let signal = tokio::select! {
                Some(()) = self.terminate.recv() => Signal::Finish,
                Some(()) = self.hang_up.recv() => Signal::Replace,
                Some(()) = self.interrupt.recv() => Signal::Stop,
                else => return,
            };
            let signal = if stopping { Signal::Force } else { signal };
            stopping |= signal != Signal::Replace;
            to.send_replace(Some(signal));
        }
    }
}

#[cfg(not(unix))]
struct Sources;

#[cfg(not(unix))]
impl Sources {
    fn new() -> io::Result<Self> {
        Ok(Sources)
    }

    async fn forward(self, to: &watch::Sender<Option<Signal>>) {
        let mut next = Signal::Stop;
        while tokio::signal::ctrl_c().await.is_ok() {
            to.send_replace(Some(next));
            next = Signal::Force;
        }
    }
}
