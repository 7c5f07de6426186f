use std::net::Ipv4Addr;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::port::Port;
use crate::program::find;

/// A member of an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    instance: Instance,
    peers: Port,
}

instance!(Etcd);

impl Etcd {
    /// Starts a cluster of one.
    pub fn start() -> Result<Self, Error> {
        Ok(Self::cluster(1)?.remove(0))
    }

    /// Starts a cluster of `members`.
    pub fn cluster(members: usize) -> Result<Vec<Self>, Error> {
        Self::cluster_at(&vec![Ipv4Addr::LOCALHOST; members])
    }

    /// Starts a cluster with a member for each of these addresses of this machine, at which it takes in clients
    /// as well.
    pub fn cluster_at(addresses: &[Ipv4Addr]) -> Result<Vec<Self>, Error> {
        let path = find("etcd")?;
        let prepare = || {
            let instance = Instance::prepare(Plan {
                server: "etcd",
                user: None,
                stop: Signal::TERM,
                probe: crate::probe::etcd,
            })?;
            Ok(Self { instance, peers: Port::reserve()? })
        };
        let all = addresses.iter().map(|_| prepare()).collect::<Result<Vec<_>, Error>>()?;
        let name = |member: &Self| format!("n{}", member.port());
        let peer = |member: &Self| format!("http://127.0.0.1:{}", member.peers.number);
        let cluster: Vec<_> =
            all.iter().map(|one| format!("{}={}", name(one), peer(one))).collect();
        for (member, address) in all.iter().zip(addresses) {
            let mut clients = member.url();
            if !address.is_loopback() {
                clients += &format!(",http://{address}:{}", member.port());
            }
            let flags = arguments![
                "--name",
                name(member),
                "--data-dir",
                member.folder().join("data"),
                "--listen-client-urls",
                clients,
                "--advertise-client-urls",
                member.url(),
                "--listen-peer-urls",
                peer(member),
                "--initial-advertise-peer-urls",
                peer(member),
                "--initial-cluster",
                cluster.join(","),
            ];
            let path = path.clone();
            member.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
            member.spawn()?;
        }
        for member in &all {
            member.await_ready()?;
        }
        Ok(all)
    }

    /// `http://..` for clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}
