//! What the tests of this program share.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mainstay::proto::frame::Status;
use mainstay::testkit::{ClientError, Game, Player};

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Waits for all of `futures` at once.
pub async fn all<'a, T>(futures: impl IntoIterator<Item = Boxed<'a, T>>) -> Vec<T> {
    let mut open: Vec<_> = futures.into_iter().map(|future| (future, None)).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (future, result) in open.iter_mut().filter(|(_, result)| result.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(value) => *result = Some(value),
                Poll::Pending => waits = true,
            }
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    open.into_iter().filter_map(|(_, result)| result).collect()
}

pub async fn clients(game: &Game, accounts: impl IntoIterator<Item = u64>) -> Vec<Player> {
    let mut players = Vec::new();
    for account in accounts {
        players.push(game.client(account).await);
    }
    players
}

pub fn refused<T>(status: Status) -> Result<T, ClientError> {
    Err(ClientError::Refused(status))
}
