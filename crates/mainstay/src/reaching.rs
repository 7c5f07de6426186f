//! Opening what a process reaches the others through.

use bus::Bus;
use cluster::Cluster;
use env::Clock;

use crate::config::{BusPlace, BusServer, CoordinatorPlace, EtcdPlace, Process};
use crate::process::{StartError, system};

/// Opens what the process finds the others through. It need not be there yet.
pub(crate) fn open_coordinator(process: &Process, clock: &Clock) -> Result<Cluster, StartError> {
    let options = process.options.registry.clone();
    match &process.coordinator {
        CoordinatorPlace::Process => Ok(Cluster::embedded(options)),
        CoordinatorPlace::Embedded(folder) => {
            let what = || format!("cannot use the coordinator in {}", folder.display());
            Cluster::attach(folder, options, clock).map_err(system(what()))
        }
        CoordinatorPlace::Etcd(etcd) => open_etcd(etcd, options, clock),
    }
}

#[cfg(feature = "etcd")]
fn open_etcd(
    etcd: &EtcdPlace,
    options: cluster::Options,
    clock: &Clock,
) -> Result<Cluster, StartError> {
    let password = etcd.password(&crate::config::Vault::system());
    let password = password.map_err(StartError::CoordinatorPassword)?;
    let user = etcd.user.clone().zip(password);
    let user = user.map(|(name, password)| cluster::EtcdUser { name, password });
    let tls = cluster::EtcdTls {
        authorities: etcd.authorities.clone(),
        certificate: etcd.certificate.clone(),
    };
    let usual = cluster::EtcdOptions::new(etcd.endpoints.iter().cloned(), &etcd.prefix);
    let etcd = cluster::EtcdOptions { user, tls, ..usual };
    Cluster::etcd(etcd, options, clock).map_err(system("cannot use etcd"))
}

#[cfg(not(feature = "etcd"))]
fn open_etcd(_: &EtcdPlace, _: cluster::Options, _: &Clock) -> Result<Cluster, StartError> {
    Err(StartError::CoordinatorNotBuilt("etcd"))
}

/// Opens the bus that a configuration names, for tools that work on it beside a game. A server need not be
/// there yet.
///
/// # Errors
///
/// See [`StartError`].
pub fn open_bus(place: &BusPlace, options: bus::Options, clock: &Clock) -> Result<Bus, StartError> {
    match place {
        BusPlace::Embedded => Ok(Bus::embedded(options, clock)),
        BusPlace::Nats(server) => open_nats(server, options, clock),
        BusPlace::Rabbitmq(server) => open_rabbitmq(server, options, clock),
    }
}

#[cfg(any(feature = "nats", feature = "rabbitmq"))]
fn addresses(server: &BusServer) -> Result<Vec<String>, StartError> {
    server.addresses(&crate::config::Vault::system()).map_err(StartError::BusPassword)
}

#[cfg(feature = "nats")]
fn open_nats(server: &BusServer, options: bus::Options, clock: &Clock) -> Result<Bus, StartError> {
    let mut nats = bus::NatsOptions::new(addresses(server)?, &server.prefix);
    nats.credentials.clone_from(&server.credentials);
    nats.replicas = server.replicas;
    Bus::nats(nats, options, clock).map_err(system("cannot use the bus"))
}

#[cfg(not(feature = "nats"))]
fn open_nats(_: &BusServer, _: bus::Options, _: &Clock) -> Result<Bus, StartError> {
    Err(StartError::BusNotBuilt("nats"))
}

#[cfg(feature = "rabbitmq")]
fn open_rabbitmq(
    server: &BusServer,
    options: bus::Options,
    clock: &Clock,
) -> Result<Bus, StartError> {
    let rabbitmq = bus::RabbitmqOptions::new(addresses(server)?, &server.prefix);
    Bus::rabbitmq(rabbitmq, options, clock).map_err(system("cannot use the bus"))
}

#[cfg(not(feature = "rabbitmq"))]
fn open_rabbitmq(_: &BusServer, _: bus::Options, _: &Clock) -> Result<Bus, StartError> {
    Err(StartError::BusNotBuilt("rabbitmq"))
}
