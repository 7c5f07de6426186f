use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;

use crate::cx::Cx;
use crate::entity::Entity;
use crate::error::Fault;
use crate::host::mail::NONE;
use crate::host::shard::Shard;
use crate::host::turns::TurnId;

/// One message's right to run: generated code ends it with one of its verbs.
///
/// A turn that is dropped instead fails its call.
pub struct Turn<'a, E: Entity, S = E> {
    // Two pointers, which travel in registers.
    cx: &'a mut Cx<E>,
    state: Rc<RefCell<S>>,
}

/// That a turn was ended by one of its verbs.
#[must_use = "a handler ends its turn and gives back what that gave"]
#[derive(Debug)]
pub struct Step(());

impl<'a, E: Entity> Turn<'a, E> {
    /// The turn of a plain handler has `cx` itself; an async one has its own.
    #[inline(always)]
    pub(crate) fn new(cx: &'a mut Cx<E>, state: Rc<RefCell<E>>) -> Self {
        Turn { cx, state }
    }
}

impl<'a, E: Entity, S: 'static> Turn<'a, E, S> {
    /// The state that the handler runs on.
    pub fn state(&self) -> &Rc<RefCell<S>> {
        &self.state
    }

    /// The same turn on the state of a component.
    pub fn on<C>(self, state: Rc<RefCell<C>>) -> Turn<'a, E, C> {
        Turn { cx: self.cx, state }
    }

    /// Runs a plain handler that answers.
    #[inline]
    pub fn call(self, handler: impl FnOnce(&mut S, &mut Cx<E>) -> E::Reply) -> Step {
        let reply = handler(&mut self.state.borrow_mut(), self.cx);
        self.cx.shard().reply(reply);
        Step(())
    }

    /// Runs a plain handler that does not answer.
    #[inline]
    pub fn tell(self, handler: impl FnOnce(&mut S, &mut Cx<E>)) -> Step {
        handler(&mut self.state.borrow_mut(), self.cx);
        self.cx.shard().end_quietly();
        Step(())
    }

    /// As [`tell`](Self::tell); an error, which only a timer's callback can have, is reported.
    pub fn tell_result<X: fmt::Display>(
        self,
        handler: impl FnOnce(&mut S, &mut Cx<E>) -> Result<(), X>,
    ) -> Step {
        self.tell(|state, cx| {
            if let Err(error) = handler(state, cx) {
                cx.report_failure(&error);
            }
        })
    }

    /// Runs an async handler that answers: `make` is given the state and the context, to own. The future
    /// is polled at once; only if it must wait does the turn stay open.
    #[inline]
    pub fn run<F>(self, make: impl FnOnce(Rc<RefCell<S>>, Cx<E>) -> F + 'static) -> Step
    where
        F: Future<Output = E::Reply> + 'static,
    {
        self.open(make, Some)
    }

    /// Runs an async handler that does not answer.
    #[inline]
    pub fn run_quiet<F>(self, make: impl FnOnce(Rc<RefCell<S>>, Cx<E>) -> F + 'static) -> Step
    where
        F: Future<Output = ()> + 'static,
    {
        self.open(make, |()| None)
    }

    /// As [`run_quiet`](Self::run_quiet); an error, which only a timer's callback can have, is
    /// reported.
    pub fn run_result<F, X>(self, make: impl FnOnce(Rc<RefCell<S>>, Cx<E>) -> F + 'static) -> Step
    where
        F: Future<Output = Result<(), X>> + 'static,
        X: fmt::Display + 'static,
    {
        self.run_quiet(|state, cx| {
            let reports = cx.twin();
            let future = make(state, cx);
            async move {
                if let Err(error) = future.await {
                    reports.report_failure(&error);
                }
            }
        })
    }

    fn open<F>(
        self,
        make: impl FnOnce(Rc<RefCell<S>>, Cx<E>) -> F + 'static,
        answer: fn(F::Output) -> Option<E::Reply>,
    ) -> Step
    where
        F: Future + 'static,
    {
        let Turn { cx, state } = self;
        let shard = Rc::clone(cx.shard());
        let entity = cx.index();
        if E::KIND.document {
            shard.show_early(entity);
        }
        let Some(id) = shard.open_turn(entity) else {
            let origin = shard.take_origin();
            shard.answer(origin, Err(Fault::BUSY));
            return Step(());
        };
        let cx = cx.of_turn(id);
        let finished = Rc::clone(&shard);
        let mut placed = shard.hub.slots.place(async move {
            let output = make(state, cx).await;
            finished.finish(id, answer(output));
        });
        let waker = shard.hub.waker_of(id);
        match shard.hub.poll_placed(id, &mut placed, waker) {
            (Poll::Ready(()), waker) => {
                drop(placed);
                shard.hub.turns.borrow_mut().keep_waker(id.index, Some(waker));
                drop(shard.unlink_turn(entity, id));
            }
            (Poll::Pending, waker) => {
                if let Some(turn) = shard.hub.turns.borrow_mut().get_mut(id) {
                    turn.future = Some(placed);
                    turn.waker = Some(waker);
                }
            }
        }
        shard.hub.running.turn.set(TurnId::NONE);
        Step(())
    }

    /// Refuses the message: the caller gets `BadArgument`.
    pub fn refuse(self, problem: impl Into<Box<str>>) -> Step {
        let shard = self.cx.shard();
        let origin = shard.take_origin();
        shard.answer(origin, Err(Fault::BadArgument(problem.into())));
        Step(())
    }

    /// Does nothing.
    pub fn skip(self) -> Step {
        self.cx.shard().end_quietly();
        Step(())
    }
}

impl<E: Entity> Shard<E> {
    /// The running handler ended without an answer.
    #[inline]
    fn end_quietly(&self) {
        if self.hub.running.node.get() != NONE {
            self.answer_quiet(self.take_origin());
        }
    }
}

impl<E: Entity, S> fmt::Debug for Turn<'_, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("kind", &E::KIND.name).finish_non_exhaustive()
    }
}
