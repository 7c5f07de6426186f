use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
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
    secure: Port,
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
        Self::cluster_with(addresses, |_| Ok(Extra::default()))
    }

    fn cluster_with(
        addresses: &[Ipv4Addr],
        extra: impl Fn(&Self) -> Result<Extra, Error>,
    ) -> Result<Vec<Self>, Error> {
        let path = find("etcd")?;
        let prepare = || {
            let instance = Instance::prepare(Plan {
                server: "etcd",
                user: None,
                stop: Signal::TERM,
                probe: crate::probe::etcd,
            })?;
            Ok(Self { instance, peers: Port::reserve()?, secure: Port::reserve()? })
        };
        let all = addresses.iter().map(|_| prepare()).collect::<Result<Vec<_>, Error>>()?;
        let name = |member: &Self| format!("n{}", member.port());
        let peer = |member: &Self| format!("http://127.0.0.1:{}", member.peers.number);
        let cluster: Vec<_> =
            all.iter().map(|one| format!("{}={}", name(one), peer(one))).collect();
        for (member, address) in all.iter().zip(addresses) {
            let extra = extra(member)?;
            let mut clients = [vec![member.url()], extra.clients].concat();
            if !address.is_loopback() {
                clients.push(format!("http://{address}:{}", member.port()));
            }
            let mut flags = arguments![
                "--name",
                name(member),
                "--data-dir",
                member.folder().join("data"),
                "--listen-client-urls",
                clients.join(","),
                "--advertise-client-urls",
                member.url(),
                "--listen-peer-urls",
                peer(member),
                "--initial-advertise-peer-urls",
                peer(member),
                "--initial-cluster",
                cluster.join(","),
            ];
            flags.extend(extra.flags);
            let path = path.clone();
            member.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
            member.spawn()?;
        }
        for member in &all {
            member.await_ready()?;
        }
        Ok(all)
    }

    /// Starts one that lets in users only: `root` may do all and has this password. A token is good until it
    /// was not used for a second.
    pub fn start_guarded(password: &str) -> Result<Self, Error> {
        let flags = || arguments!["--auth-token-ttl", "1"];
        let extra = |_: &Self| Ok(Extra { flags: flags(), ..Extra::default() });
        let this = Self::cluster_with(&[Ipv4Addr::LOCALHOST], extra)?.remove(0);
        let user = format!(r#"{{"name": "root", "password": "{password}"}}"#);
        this.order("user/add", &user)?;
        this.order("role/add", r#"{"name": "root"}"#)?;
        this.order("user/grant", r#"{"user": "root", "role": "root"}"#)?;
        this.order("enable", "{}")?;
        Ok(this)
    }

    /// Starts one that also takes in clients at [`secure_url`](Self::secure_url), of whom it wants a certificate
    /// by its own authority; see [`secrets`](Self::secrets).
    pub fn start_secure() -> Result<Self, Error> {
        let extra = |this: &Self| {
            let folder = this.secrets();
            write_secrets(&folder)?;
            let [certificate, key, authority] =
                ["server.pem", "server.key", "authority.pem"].map(|name| folder.join(name));
            let flags = arguments![
                "--client-cert-auth",
                "--cert-file",
                certificate,
                "--key-file",
                key,
                "--trusted-ca-file",
                authority
            ];
            Ok(Extra { clients: vec![this.secure_url()], flags })
        };
        Ok(Self::cluster_with(&[Ipv4Addr::LOCALHOST], extra)?.remove(0))
    }

    /// `https://..` for clients.
    pub fn secure_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.secure.number)
    }

    /// The folder with `authority.pem`, who has signed the member's certificate and `client.pem` with
    /// `client.key`; `other.pem` is an authority who has not.
    pub fn secrets(&self) -> PathBuf {
        self.folder().join("secrets")
    }

    /// Orders something of its users.
    fn order(&self, what: &str, body: &str) -> Result<(), Error> {
        let request = format!(
            "POST /v3/auth/{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.port())).and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        asked.map_err(Error::system(format!("etcd: {what}")))?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        Err(Error::Program { program: format!("etcd: {what}"), output: answer })
    }

    /// `http://..` for clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

/// What a member has beside what all have.
#[derive(Default)]
struct Extra {
    /// Further addresses for clients.
    clients: Vec<String>,
    flags: Vec<OsString>,
}

/// Writes an authority, another, and certificates of a server and a client by the first.
fn write_secrets(folder: &Path) -> Result<(), Error> {
    let failed = |error: rcgen::Error| Error::Program {
        program: "certificates of etcd".to_owned(),
        output: error.to_string(),
    };
    let authority = |name: &str| {
        let mut of = CertificateParams::new(Vec::<String>::new())?;
        of.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        of.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(of, KeyPair::generate()?)
    };
    let (own, other) = (authority("own").map_err(failed)?, authority("other").map_err(failed)?);
    let write = |name: &str, text: String| {
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(name), text));
        written.map_err(Error::system("certificates of etcd"))
    };
    write("authority.pem", own.pem())?;
    write("other.pem", other.pem())?;
    for name in ["server", "client"] {
        let key = KeyPair::generate().map_err(failed)?;
        let of = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(failed)?;
        let signed = of.signed_by(&key, &own).map_err(failed)?;
        write(&format!("{name}.pem"), signed.pem())?;
        write(&format!("{name}.key"), key.serialize_pem())?;
    }
    Ok(())
}
