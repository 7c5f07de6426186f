//! The kinds that most tests use.

use std::time::Duration;

use macros::{Message, entity, rpc};
use node::rt::{CallError, Cx, Failure, This};

use crate::rig::say;

/// An error in few words: keys only.
pub fn short(error: &CallError) -> String {
    match error {
        CallError::Cycle { ring } => {
            let keys: Vec<String> = ring.iter().map(|entity| entity.key.to_string()).collect();
            format!("Cycle[{}]", keys.join(" "))
        }
        CallError::Timeout { target, waited } => format!("Timeout({} {waited:?})", target.key),
        CallError::Busy(target) => format!("Busy({})", target.key),
        CallError::Gone(target) => format!("Gone({})", target.key),
        CallError::NotFound(target) => format!("NotFound({})", target.key),
        CallError::Denied(target) => format!("Denied({})", target.key),
        CallError::BadArgument { problem, .. } => format!("BadArgument({problem})"),
        CallError::Unavailable(target) => format!("Unavailable({})", target.key),
        CallError::RolledBack(target) => format!("RolledBack({})", target.key),
        CallError::Failed(target) => format!("Failed({})", target.key),
        CallError::Cancelled(target) => format!("Cancelled({})", target.key),
        other => format!("{other:?}"),
    }
}

/// A result in few words.
pub fn brief<T: std::fmt::Display>(result: Result<T, CallError>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => short(&error),
    }
}

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
pub enum Poor {
    Missing { coins: u64 },
}

/// Does what it is told and says so.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Actor {
    pub n: u64,
}

#[rpc(root = node::rt)]
impl Actor {
    #[invoke]
    fn add(&mut self, n: u64) -> u64 {
        self.n += n;
        self.n
    }

    /// Answers as long as it is told to.
    #[invoke]
    fn echo(&mut self, text: String, times: u64) -> String {
        text.repeat(times as usize)
    }

    #[invoke]
    fn take(&mut self, n: u64) -> Result<u64, Poor> {
        match self.n.checked_sub(n) {
            Some(left) => {
                self.n = left;
                Ok(left)
            }
            None => Err(Poor::Missing { coins: n - self.n }),
        }
    }

    #[tell(server)]
    fn note(&mut self, cx: &mut Cx<Self>, text: String) {
        say(format!("{} notes {text}", cx.key()));
    }

    /// Passes a tell on to itself and to `other`.
    #[tell(server)]
    fn spread(&mut self, cx: &mut Cx<Self>, other: u64) {
        cx.entity::<Actor>(cx.key()).note("from myself".into()).unwrap();
        cx.entity::<Actor>(other).note(format!("from {}", cx.key())).unwrap();
        say(format!("{} spread", cx.key()));
    }

    #[invoke]
    async fn slow(&mut self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        say(format!("{} begins {ms}", cx.key()));
        let before = self.n;
        cx.sleep(Duration::from_millis(ms)).await;
        assert_eq!(self.n, before, "nobody else had the entity");
        self.n += 1;
        say(format!("{} ends {ms}{}", cx.key(), if cx.is_cancelled() { " cancelled" } else { "" }));
        self.n
    }

    #[invoke(interleave)]
    async fn slow_beside(this: This<Self>, cx: &mut Cx<Self>, ms: u64) -> u64 {
        say(format!("{} begins {ms} beside", cx.key()));
        cx.sleep(Duration::from_millis(ms)).await;
        let n = this.with(|actor| {
            actor.n += 1;
            actor.n
        });
        say(format!("{} ends {ms} beside", cx.key()));
        n
    }

    /// Calls the first of `path`, which calls the next, until it ends.
    #[invoke]
    async fn relay(&mut self, cx: &mut Cx<Self>, path: Vec<u64>) -> String {
        forward(cx, path).await
    }

    /// The same, with others beside it.
    #[invoke(interleave)]
    async fn relay_beside(_this: This<Self>, cx: &mut Cx<Self>, path: Vec<u64>) -> String {
        let Some((next, rest)) = path.split_first() else { return "end".into() };
        let result = cx.entity::<Actor>(*next).relay(rest.to_vec()).await;
        format!("{}<{}", cx.key(), brief(result))
    }

    /// Waits, then relays.
    #[invoke]
    async fn relay_later(&mut self, cx: &mut Cx<Self>, ms: u64, path: Vec<u64>) -> String {
        cx.sleep(Duration::from_millis(ms)).await;
        forward(cx, path).await
    }

    /// Relays to `beside` by its interleaved method.
    #[invoke]
    async fn relay_to_beside(&mut self, cx: &mut Cx<Self>, beside: u64, path: Vec<u64>) -> String {
        let result = cx.entity::<Actor>(beside).relay_beside(path).await;
        format!("{}<{}", cx.key(), brief(result))
    }

    /// Has `slow` called on `other`, waiting at most `limit_ms`.
    #[invoke]
    async fn call_slow(&mut self, cx: &mut Cx<Self>, other: u64, ms: u64, limit_ms: u64) -> String {
        let limit = Duration::from_millis(limit_ms);
        let result = brief(cx.entity::<Actor>(other).slow(ms).deadline(limit).await);
        say(format!("{} got {result}", cx.key()));
        result
    }

    /// Passes [`call_slow`](Self::call_slow) on, so that there are two hops.
    #[invoke]
    async fn call_call_slow(
        &mut self,
        cx: &mut Cx<Self>,
        route: (u64, u64),
        ms: u64,
        limit_ms: u64,
    ) -> String {
        let (via, other) = route;
        let call = cx.entity::<Actor>(via).call_slow(other, ms, 10_000);
        let result = brief(call.deadline(Duration::from_millis(limit_ms)).await);
        say(format!("{} got {result}", cx.key()));
        result
    }

    /// Calls many at once and gives how each ended.
    #[invoke]
    async fn call_many(&mut self, cx: &mut Cx<Self>, others: Vec<u64>) -> String {
        let calls: Vec<_> =
            others.iter().map(|other| cx.entity::<Actor>(*other).add(*other)).collect();
        let mut results = Vec::new();
        for result in crate::rig::join(calls).await {
            results.push(brief(result));
        }
        results.join(" ")
    }

    #[invoke]
    async fn buy(&mut self, cx: &mut Cx<Self>, from: u64, n: u64) -> String {
        match cx.entity::<Actor>(from).take(n).await {
            Ok(left) => format!("left {left}"),
            Err(Failure::App(Poor::Missing { coins })) => format!("poor by {coins}"),
            Err(Failure::Call(error)) => short(&error),
        }
    }

    #[invoke]
    fn who(&mut self, cx: &mut Cx<Self>) -> String {
        format!("{:?}", cx.caller())
    }

    #[invoke]
    fn crash(&mut self, text: String) -> u64 {
        self.n += 1_000;
        panic!("{text}");
    }

    #[invoke]
    async fn crash_later(&mut self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        self.n += 1_000;
        cx.sleep(Duration::from_millis(ms)).await;
        panic!("later");
    }
}

async fn forward(cx: &mut Cx<Actor>, path: Vec<u64>) -> String {
    let Some((next, rest)) = path.split_first() else { return "end".into() };
    let result = cx.entity::<Actor>(*next).relay(rest.to_vec()).await;
    format!("{}<{}", cx.key(), brief(result))
}
