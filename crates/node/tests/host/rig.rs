//! A host on a clock that moves by hand, and a trace of what entities say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use env::{Clock, Instant, ManualClock, Random, WallTime};
use node::{Batch, Event, FrameClass, Host, HostOptions, HostSetup, Outside, Place, Router};
use proto::link::{LinkFrame, WorkerId};
use proto::{EntityId, Incarnation};

thread_local! {
    static TRACE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Adds a line to the trace of this test.
pub fn say(line: impl Into<String>) {
    TRACE.with(|trace| trace.borrow_mut().push(line.into()));
}

/// Takes the trace, one line each.
pub fn trace() -> String {
    TRACE.with(|trace| trace.take()).into_iter().map(|line| line + "\n").collect()
}

/// Waits for all of several futures.
pub async fn join<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let mut slots: Vec<(Option<F>, Option<F::Output>)> =
        futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, output) in &mut slots {
            let Some(running) = future else { continue };
            match Pin::new(running).poll(context) {
                Poll::Ready(value) => (*future, *output) = (None, Some(value)),
                Poll::Pending => waiting = true,
            }
        }
        if waiting {
            return Poll::Pending;
        }
        Poll::Ready(slots.drain(..).filter_map(|(_, output)| output).collect())
    })
    .await
}

type Task = (String, Pin<Box<dyn Future<Output = String>>>);

/// One or more hosts and what waits for them.
pub struct Rig {
    pub hosts: Vec<Host>,
    pub hand: ManualClock,
    start: Instant,
    tasks: Vec<Task>,
    /// Frames for these nodes are refused.
    pub refuse: bool,
    /// Frames for this node are lost.
    pub cut: Option<Incarnation>,
}

/// Where keyed entities live: by kind and key; what is not named lives on the first worker.
#[derive(Clone, Default)]
pub struct Map {
    pub places: Rc<RefCell<BTreeMap<EntityId, WorkerId>>>,
    pub fixed: Rc<RefCell<BTreeMap<EntityId, Place>>>,
}

struct Here {
    me: WorkerId,
    map: Map,
}

impl Router for Here {
    fn place(&self, id: EntityId) -> Place {
        if let Some(place) = self.map.fixed.borrow().get(&id) {
            return *place;
        }
        let home = WorkerId { node: Incarnation(1), worker: 0 };
        let at = self.map.places.borrow().get(&id).copied().unwrap_or(home);
        let at = match id.home {
            Incarnation::NONE => at,
            node => WorkerId { node, worker: (id.key & 0xff) as u8 },
        };
        if at == self.me {
            Place::Here
        } else if at.node == self.me.node {
            Place::Worker(at.worker)
        } else {
            Place::Node(at)
        }
    }
}

pub fn worker(node: u64, worker: u8) -> WorkerId {
    WorkerId { node: Incarnation(node), worker }
}

impl Rig {
    /// One worker on its own.
    pub fn new(options: HostOptions) -> Self {
        Rig::many(options, &[worker(1, 0)], &Map::default())
    }

    /// Several workers of one or more nodes, joined.
    pub fn many(options: HostOptions, workers: &[WorkerId], map: &Map) -> Self {
        trace();
        let (clock, hand) = Clock::manual(WallTime(1_000_000));
        hand.advance(Duration::from_secs(1));
        let hosts = workers.iter().map(|me| {
            let setup = HostSetup {
                me: *me,
                workers: 4,
                clock: clock.clone(),
                random: Random::from_seed(u64::from(me.worker)),
                router: Rc::new(Here { me: *me, map: map.clone() }),
            };
            Host::new(options.clone(), setup)
        });
        let hosts = hosts.collect();
        let start = hand.now();
        Rig { hosts, hand, start, tasks: Vec::new(), refuse: false, cut: None }
    }

    pub fn host(&mut self) -> &mut Host {
        &mut self.hosts[0]
    }

    pub fn outside(&self) -> Outside {
        self.hosts[0].outside()
    }

    pub fn now(&self) -> Instant {
        self.hand.now()
    }

    /// Milliseconds since the test began.
    pub fn millis(&self) -> u128 {
        (self.hand.now() - self.start).as_millis()
    }

    /// Adds a future whose result is traced under `name` when it is there.
    pub fn start<T: std::fmt::Debug>(
        &mut self,
        name: &str,
        future: impl Future<Output = T> + 'static,
    ) {
        let future = Box::pin(async move { format!("{:?}", future.await) });
        self.tasks.push((name.to_owned(), future));
        self.poll_tasks();
    }

    fn poll_tasks(&mut self) -> bool {
        let mut progress = false;
        let now = self.millis();
        self.tasks.retain_mut(|(name, task)| {
            match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => true,
                Poll::Ready(text) => {
                    progress = true;
                    say(format!("{now}ms {name}: {text}"));
                    false
                }
            }
        });
        progress
    }

    /// Runs everything that is ready, without letting time pass.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let (now, wall) = (self.hand.now(), self.hand.wall());
            let mut again = self.poll_tasks();
            for host in &mut self.hosts {
                again |= host.turn(now, wall).is_some_and(|at| at <= now);
            }
            again |= self.carry();
            again |= self.poll_tasks();
            if !again {
                return;
            }
        }
        panic!("the hosts never settle");
    }

    /// Carries batches and frames among the hosts.
    fn carry(&mut self) -> bool {
        let now = self.hand.now();
        let mut moved = false;
        let mut batches: Vec<(WorkerId, Batch)> = Vec::new();
        let mut frames: Vec<(WorkerId, WorkerId, Vec<u8>)> = Vec::new();
        let (refuse, cut) = (self.refuse, self.cut);
        for host in &mut self.hosts {
            let me = host.me();
            while let Some((to, batch)) = host.poll_batch() {
                batches.push((WorkerId { node: me.node, worker: to }, batch));
            }
            host.drain_frames(|to, class, payload| {
                if refuse && class == FrameClass::Call {
                    moved = true;
                    return false;
                }
                frames.push((me, to, payload.to_vec()));
                true
            });
        }
        for (to, batch) in batches {
            moved = true;
            if let Some(host) = self.hosts.iter_mut().find(|host| host.me() == to) {
                host.handle_batch(now, batch);
            }
        }
        for (from, to, payload) in frames {
            moved = true;
            if cut == Some(to.node) || cut == Some(from.node) {
                continue;
            }
            let Some(host) = self.hosts.iter_mut().find(|host| host.me() == to) else { continue };
            let (worker, frame) = LinkFrame::decode(&payload).expect("own frames decode");
            assert_eq!(worker, to.worker);
            match frame {
                LinkFrame::Call(call) => host.handle_call(now, from, &call),
                LinkFrame::Answer { call, status, body } => host.handle_answer(call, status, body),
                LinkFrame::Cancel { call } => host.handle_cancel(from, call),
                LinkFrame::Probe { origin, call, target, seen } => {
                    host.handle_probe(from, origin, call, target, seen);
                }
                other => panic!("a host sends no {other:?}"),
            }
        }
        moved
    }

    /// Lets time pass, from one thing to do to the next.
    pub fn pass(&mut self, time: Duration) {
        let end = self.hand.now() + time;
        self.settle();
        loop {
            let next = self.hosts.iter().filter_map(Host::next_turn).min();
            match next {
                Some(at) if at <= end => self.hand.advance_to(at),
                _ => break,
            }
            self.settle();
        }
        self.hand.advance_to(end);
        self.settle();
    }

    /// The result of a future that is done when everything has settled.
    pub fn now_done<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let filled = Rc::clone(&slot);
        let task = async move {
            *filled.borrow_mut() = Some(future.await);
            String::new()
        };
        self.tasks.push(("once".to_owned(), Box::pin(task)));
        self.settle();
        TRACE.with(|trace| trace.borrow_mut().retain(|line| !line.ends_with("once: ")));
        let done = slot.borrow_mut().take();
        done.expect("the future is done without time passing")
    }

    /// The events so far, as text.
    pub fn events(&mut self) -> String {
        let mut text = String::new();
        for host in &mut self.hosts {
            while let Some(event) = host.poll_event() {
                let line = match event {
                    Event::Gone { id, code, .. } => format!("Gone {id} {code:?}"),
                    Event::Activated { id, result } => {
                        format!("Activated {id} {:?}", result.map(|_| ()))
                    }
                    other => format!("{other:?}"),
                };
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}
