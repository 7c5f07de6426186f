//! The same over tarpc and over NATS, each side with a thread of its own and a Tokio of one thread.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::raw::{BODY_BYTES, CLIENT_CPU, SERVER_CPU, pin};

fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Runs the answering side on a core of its own for as long as the program runs. `serve` gives what
/// the asking side needs to know and a future that serves.
fn answer<T: Send + 'static, F: Future<Output = ()>>(
    serve: impl AsyncFnOnce() -> anyhow::Result<(T, F)> + Send + 'static,
) -> anyhow::Result<T> {
    let (ready, when_ready) = mpsc::channel();
    thread::spawn(move || {
        let served = pin(SERVER_CPU).and_then(|()| runtime()).map(|runtime| {
            runtime.block_on(async {
                match serve().await {
                    Ok((known, serving)) => {
                        let _ = ready.send(Ok(known));
                        serving.await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        });
        if let Err(error) = served {
            let _ = ready.send(Err(error));
        }
    });
    when_ready.recv().context("the answering side ended")?
}

/// What is compared with.
pub struct Others {
    tarpc: tarpc_side::Side,
    #[cfg(feature = "servers")]
    nats: nats_side::Side,
}

impl Others {
    pub fn start() -> anyhow::Result<Self> {
        Ok(Others {
            tarpc: tarpc_side::Side::start()?,
            #[cfg(feature = "servers")]
            nats: nats_side::Side::start()?,
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        ["tarpc", "NATS with its server"]
            .into_iter()
            .take(1 + usize::from(cfg!(feature = "servers")))
    }

    /// CPU microseconds of one call by the one of that place in [`names`](Self::names).
    pub fn cost(&self, place: usize, in_flight: u64, each: u64) -> anyhow::Result<f64> {
        let calls = in_flight * each;
        let nothing = || Ok(Duration::ZERO);
        match place {
            #[cfg(feature = "servers")]
            1 => super::cost(calls, || self.nats.cpu(), || self.nats.calls(in_flight, each)),
            _ => super::cost(calls, nothing, || self.tarpc.calls(in_flight, each)),
        }
    }
}

/// So many callers, each of which waits for one call after the other.
async fn all<C: Clone + 'static, F: Future<Output = bool> + 'static>(
    client: &C,
    (in_flight, each): (u64, u64),
    call: impl Fn(C, Vec<u8>) -> F + Copy + 'static,
) -> u64 {
    let tasks = tokio::task::LocalSet::new();
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let client = client.clone();
        let caller = async move {
            let body = vec![0x5a; BODY_BYTES];
            let mut right = 0;
            for _ in 0..each {
                right += u64::from(call(client.clone(), body.clone()).await);
            }
            right
        };
        callers.spawn_local_on(caller, &tasks);
    }
    tasks.run_until(async { callers.join_all().await.into_iter().sum() }).await
}

mod tarpc_side {
    use std::net::{Ipv4Addr, SocketAddr};

    use futures_util::StreamExt as _;
    use tarpc::server::{BaseChannel, Channel as _};
    use tarpc::tokio_serde::formats::Bincode;
    use tarpc::{client, context, serde_transport};

    use super::*;

    #[tarpc::service]
    trait Answerer {
        async fn echo(body: Vec<u8>) -> Vec<u8>;
    }

    #[derive(Clone)]
    struct Server;

    impl Answerer for Server {
        async fn echo(self, _: context::Context, body: Vec<u8>) -> Vec<u8> {
            body
        }
    }

    pub struct Side {
        runtime: Runtime,
        client: AnswererClient,
    }

    impl Side {
        pub fn start() -> anyhow::Result<Self> {
            let address: SocketAddr = answer(async || {
                let at = (Ipv4Addr::LOCALHOST, 0);
                let mut incoming = serde_transport::tcp::listen(at, Bincode::default).await?;
                let address = incoming.local_addr();
                let serving = async move {
                    while let Some(Ok(connection)) = incoming.next().await {
                        let _ = connection.get_ref().set_nodelay(true);
                        let channel = BaseChannel::with_defaults(connection);
                        tokio::spawn(channel.execute(Server.serve()).for_each(|call| async {
                            tokio::spawn(call);
                        }));
                    }
                };
                Ok((address, serving))
            })?;
            pin(CLIENT_CPU)?;
            let runtime = runtime()?;
            let client = runtime.block_on(async {
                let connection = serde_transport::tcp::connect(address, Bincode::default).await?;
                connection.get_ref().set_nodelay(true)?;
                anyhow::Ok(AnswererClient::new(client::Config::default(), connection).spawn())
            })?;
            Ok(Side { runtime, client })
        }

        pub fn calls(&self, in_flight: u64, each: u64) -> anyhow::Result<u64> {
            let call = |client: AnswererClient, body: Vec<u8>| async move {
                client
                    .echo(context::current(), body.clone())
                    .await
                    .is_ok_and(|answer| answer == body)
            };
            Ok(self.runtime.block_on(all(&self.client, (in_flight, each), call)))
        }
    }
}

#[cfg(feature = "servers")]
mod nats_side {
    use futures_util::StreamExt as _;
    use servers::Nats;

    use super::*;
    use crate::raw::process_cpu;

    pub struct Side {
        runtime: Runtime,
        client: async_nats::Client,
        server: u32,
        _instance: Nats,
    }

    impl Side {
        pub fn start() -> anyhow::Result<Self> {
            let before = children()?;
            let instance = Nats::start_core()?;
            let server = children()?.into_iter().find(|child| !before.contains(child));
            let server = server.context("NATS is no child of this process")?;
            let (url, again) = (instance.url(), instance.url());
            answer(async move || {
                let client = async_nats::connect(url).await?;
                let mut calls = client.subscribe("echo").await?;
                client.flush().await?;
                let serving = async move {
                    while let Some(call) = calls.next().await {
                        if let Some(back) = call.reply {
                            let _ = client.publish(back, call.payload).await;
                        }
                    }
                };
                Ok(((), serving))
            })?;
            pin(CLIENT_CPU)?;
            let runtime = runtime()?;
            let client = runtime.block_on(async_nats::connect(again))?;
            Ok(Side { runtime, client, server, _instance: instance })
        }

        pub fn cpu(&self) -> anyhow::Result<Duration> {
            process_cpu(self.server)
        }

        pub fn calls(&self, in_flight: u64, each: u64) -> anyhow::Result<u64> {
            let call = |client: async_nats::Client, body: Vec<u8>| async move {
                let answer = client.request("echo", body.clone().into()).await;
                answer.is_ok_and(|answer| *answer.payload == *body)
            };
            Ok(self.runtime.block_on(all(&self.client, (in_flight, each), call)))
        }
    }

    /// Processes that this one has started.
    fn children() -> anyhow::Result<Vec<u32>> {
        let mut found = Vec::new();
        for task in std::fs::read_dir("/proc/self/task")? {
            let text = std::fs::read_to_string(task?.path().join("children"))?;
            found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Ok(found)
    }
}
