//! Letters, first release. What the next one adds and retires is in `next.rs`; both run side by side during an
//! upgrade.

use mainstay::prelude::*;

/// A player's desk.
#[entity(document)]
#[derive(Default, Document)]
struct Desk {
    /// Letters that were written here.
    #[persist]
    letters: u64,
}

#[rpc]
impl Desk {
    /// The release of the node that has the desk.
    #[request(client)]
    fn release(&mut self) -> u32 {
        1
    }

    #[request(client)]
    fn write(&mut self) -> u64 {
        self.letters += 1;
        self.letters
    }

    /// The next release has no stamps any more.
    #[request(client)]
    fn frank(&mut self) -> u64 {
        self.letters
    }

    /// What another desk answers to what both releases have.
    #[request(client)]
    async fn letters_of(&mut self, cx: &mut Cx<Self>, other: u64) -> String {
        answer(cx.entity::<Desk>(other).letters().await)
    }

    /// What another desk answers to what only this release has.
    #[request(client)]
    async fn stamps_of(&mut self, cx: &mut Cx<Self>, other: u64) -> String {
        answer(cx.entity::<Desk>(other).stamps().await)
    }

    #[invoke(server)]
    fn letters(&mut self) -> u64 {
        self.letters
    }

    #[invoke(server)]
    fn stamps(&mut self) -> u64 {
        2 * self.letters
    }
}

fn answer(told: Result<u64, CallError>) -> String {
    match told {
        Ok(number) => number.to_string(),
        // Done without, until all nodes have the method.
        Err(CallError::UnknownMethod(_)) => "not there".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn main() -> mainstay::Exit {
    mainstay::run(App::new("letters").release(1).entity::<Desk>().agent::<Desk>("desk"))
}
