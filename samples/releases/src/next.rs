//! Letters, next release: desks have seals, a field of the document and methods of its own, and no stamps any more.

use mainstay::prelude::*;

/// The interface of clients of the first release, which still play: the hash that `letters-first --schema` shows,
/// and that `interface.lock` remembers.
const FIRST: u64 = 0x3c9a_9d9e_5617_b9b9;

/// A player's desk.
#[entity(document)]
#[derive(Default, Document)]
struct Desk {
    /// Letters that were written here.
    #[persist]
    letters: u64,
    /// New, and therefore last. A node of the first release keeps it as it is.
    #[persist]
    seals: u64,
}

#[rpc]
impl Desk {
    /// The release of the node that has the desk.
    #[request(client)]
    fn release(&mut self) -> u32 {
        2
    }

    #[request(client)]
    fn write(&mut self) -> u64 {
        self.letters += 1;
        self.letters
    }

    /// New.
    #[request(client)]
    fn seal(&mut self) -> u64 {
        self.seals += 1;
        self.seals
    }

    /// What another desk answers to what both releases have.
    #[request(client)]
    async fn letters_of(&mut self, cx: &mut Cx<Self>, other: u64) -> String {
        answer(cx.entity::<Desk>(other).letters().await)
    }

    /// What another desk answers to what only this release has.
    #[request(client)]
    async fn seals_of(&mut self, cx: &mut Cx<Self>, other: u64) -> String {
        answer(cx.entity::<Desk>(other).seals().await)
    }

    #[invoke(server)]
    fn letters(&mut self) -> u64 {
        self.letters
    }

    #[invoke(server)]
    fn seals(&mut self) -> u64 {
        self.seals
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
    let app = App::new("letters").release(2).accept_interfaces([FIRST]);
    mainstay::run(app.entity::<Desk>().agent::<Desk>("desk"))
}
