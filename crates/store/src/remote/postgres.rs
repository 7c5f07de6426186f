//! A shard in a PostgreSQL database: one table of rows.
//!
//! The shard's lock is the row that names the format. All statements of one step are sent before
//! the first answer is awaited.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::options::ServerOptions;
use super::{
    CommitFailure, ConnectError, Failure, Found, Link, Listed, Mode, Page, Place, Server, Watch,
    each_host, first_writes, stays_here,
};
use crate::error::OpenError;
use crate::tables::{Table, Writes};
use crate::watcher::{Seen, hosts_of};

/// Where PostgreSQL is if an address does not say it.
const PORT: u16 = 5432;

/// Whether a server takes writes, and how far it has come in the log.
const STATE: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() \
    THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
    ELSE pg_current_wal_lsn() END, '0/0')::int8";

/// A process that makes the tables holds this advisory lock: "MSYs".
const FOUNDING: i64 = 0x4d53_5973;

const CREATE: &str = "CREATE TABLE mainstay_rows (tab int2 NOT NULL, key bytea NOT NULL, \
    row bytea NOT NULL, PRIMARY KEY (tab, key)) WITH (fillfactor = 80)";
const GET: &str = "SELECT w.at, r.row \
    FROM unnest($1::int2[], $2::bytea[]) WITH ORDINALITY AS w(tab, key, at) \
    JOIN mainstay_rows r ON r.tab = w.tab AND r.key = w.key";
const PAGE: &str =
    "SELECT key, row FROM mainstay_rows WHERE tab = $1 AND key >= $2 ORDER BY key LIMIT $3";
const PUT: &str = "INSERT INTO mainstay_rows (tab, key, row) \
    SELECT * FROM unnest($1::int2[], $2::bytea[], $3::bytea[]) \
    ON CONFLICT (tab, key) DO UPDATE SET row = excluded.row";
const REMOVE: &str = "DELETE FROM mainstay_rows r \
    USING unnest($1::int2[], $2::bytea[]) AS w(tab, key) WHERE r.tab = w.tab AND r.key = w.key";

/// The keys of one table, as a statement takes them.
type Columns<'a> = (Vec<i16>, Vec<&'a [u8]>);

/// Where the database is.
pub(crate) struct Postgres {
    /// One for each host: one that hangs must not keep us from the others.
    configs: Vec<Config>,
    names: Vec<String>,
    followers: Vec<Config>,
    tls: Option<MakeRustlsConnect>,
    shown: String,
    /// What every session is set to.
    session: String,
    accept_loss: bool,
}

impl Postgres {
    /// Reads an address: `postgres://user@host:port/database`, or several hosts by commas.
    pub fn new(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let each = |url: &str| each_host(url).into_iter().map(|url| config_of(&url, options));
        let mut configs = each(url).collect::<Result<Vec<_>, _>>()?;
        for config in &mut configs {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let followers = options.followers.iter().flat_map(|url| each(url));
        let followers = followers.collect::<Result<Vec<_>, _>>()?;
        let hosts: Vec<_> =
            configs.iter().flat_map(|config| config.get_hosts().iter().map(host)).collect();
        let is_encrypted = |config: &Config| config.get_ssl_mode() == SslMode::Require;
        let tls = configs.iter().chain(&followers).any(is_encrypted);
        let tls = tls.then(|| trust(options).map(MakeRustlsConnect::new)).transpose()?;
        let database = configs.first().and_then(|one| one.get_dbname().or(one.get_user()));
        let database = database.unwrap_or("?");
        let shown = format!("PostgreSQL database {database} at {}", hosts.join(","));
        let session = session(options);
        let accept_loss = options.accept_loss;
        let names = hosts_of(url, PORT);
        Ok(Postgres { configs, names, followers, tls, shown, session, accept_loss })
    }

    async fn client(&self, config: &Config) -> Result<Client, tokio_postgres::Error> {
        let tls = self.tls.as_ref().filter(|_| config.get_ssl_mode() == SslMode::Require);
        let client = if let Some(tls) = tls {
            let (client, connection) = config.connect(tls.clone()).await?;
            // Its end is seen by the client.
            tokio::spawn(async move { drop(connection.await) });
            client
        } else {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            client
        };
        client.batch_execute(&self.session).await?;
        Ok(client)
    }

    /// Refuses a server that would lose what it acknowledged.
    async fn check(&self, client: &Client) -> Result<(), ConnectError> {
        if self.accept_loss {
            return Ok(());
        }
        let refuse = |reason: &str| {
            let (server, reason) = (self.shown.clone(), reason.to_owned());
            Err(ConnectError::Refused(OpenError::NotDurable { server, reason }))
        };
        let settings = client
            .query_one("SELECT current_setting('fsync'), current_setting('full_page_writes')", &[])
            .await
            .map_err(|error| self.refusal(&error))?;
        match [0, 1].map(|at| settings.get::<_, &str>(at)) {
            ["off", _] => refuse("set fsync = on in postgresql.conf and restart it"),
            [_, "off"] => refuse("set full_page_writes = on in postgresql.conf and reload it"),
            _ => Ok(()),
        }
    }

    /// Makes the table and the first rows unless they are there.
    async fn found(&self, client: &mut Client) -> Result<(), tokio_postgres::Error> {
        let there = "SELECT to_regclass('mainstay_rows') IS NOT NULL";
        if client.query_one(there, &[]).await?.get(0) {
            return Ok(());
        }
        // Of several processes one makes them; the others then find them. The lock is had before
        // the transaction begins, which else would not see what another process made meanwhile.
        client.execute("SELECT pg_advisory_lock($1)", &[&FOUNDING]).await?;
        let txn = client.transaction().await?;
        if !txn.query_one(there, &[]).await?.get::<_, bool>(0) {
            txn.batch_execute(CREATE).await?;
            let writes = first_writes();
            let (puts, _) = columns(&writes);
            txn.execute(PUT, &[&puts.0, &puts.1, &puts.2]).await?;
        }
        txn.commit().await?;
        client.execute("SELECT pg_advisory_unlock($1)", &[&FOUNDING]).await.map(drop)
    }

    /// Whether a failed connection is worth another try.
    fn refusal(&self, error: &tokio_postgres::Error) -> ConnectError {
        let denied = error.code().is_some_and(|code| {
            // Authorisation, a database that is not there, rights and syntax.
            ["28", "3D", "3F", "42"].iter().any(|class| code.code().starts_with(class))
        });
        if denied {
            let (server, reason) = (self.shown.clone(), shown(error));
            return ConnectError::Refused(OpenError::Denied { server, reason });
        }
        ConnectError::Away(shown(error))
    }
}

impl Server for Postgres {
    type Link = PostgresLink;
    const KIND: &'static str = "postgres";

    fn shown(&self) -> String {
        self.shown.clone()
    }

    fn hosts(&self) -> usize {
        self.configs.len()
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    async fn connect(&self, host: usize) -> Result<PostgresLink, ConnectError> {
        let refusal = |error: tokio_postgres::Error| self.refusal(&error);
        let mut client = self.client(&self.configs[host]).await.map_err(refusal)?;
        self.check(&client).await?;
        self.found(&mut client).await.map_err(refusal)?;
        PostgresLink::new(client).await.map_err(refusal)
    }

    fn followers(&self) -> usize {
        self.followers.len()
    }

    async fn connect_follower(&self, follower: usize) -> Result<PostgresLink, ConnectError> {
        let refusal = |error: tokio_postgres::Error| self.refusal(&error);
        let client = self.client(&self.followers[follower]).await.map_err(refusal)?;
        PostgresLink::new(client).await.map_err(refusal)
    }
}

impl Watch for Postgres {
    type Line = Client;

    async fn list(&self) -> Result<Listed, String> {
        Ok(Listed { names: self.names.clone(), primary: None })
    }

    async fn line(&self, name: &str) -> Result<Client, String> {
        let host = self.names.iter().position(|known| known == name);
        let config = host.and_then(|host| self.configs.get(host));
        let mut config = config.ok_or_else(|| format!("there is no server {name}"))?.clone();
        config.target_session_attrs(TargetSessionAttrs::Any);
        self.client(&config).await.map_err(|error| shown(&error))
    }

    async fn see(&self, line: &mut Client) -> Result<Seen, String> {
        let row = line.query_one(STATE, &[]).await.map_err(|error| shown(&error))?;
        let position = row.get::<_, Option<i64>>(1).unwrap_or(0);
        Ok(Seen { is_primary: !row.get::<_, bool>(0), position: position.max(0) as u64 })
    }

    async fn promote(&self, _: &str, to: &str) -> Result<(), String> {
        let client = self.line(to).await?;
        let ask = "SELECT NOT pg_is_in_recovery() OR pg_promote(true)";
        match client.query_one(ask, &[]).await {
            Ok(row) if row.get(0) => Ok(()),
            Ok(_) => Err("pg_promote() says that it has not become the primary".to_owned()),
            Err(error) => {
                Err(format!("{}; its user must be allowed to EXECUTE pg_promote()", shown(&error)))
            }
        }
    }
}

/// How to connect to one host.
fn config_of(url: &str, options: &ServerOptions) -> Result<Config, OpenError> {
    let mut config: Config = url.parse().map_err(|error| {
        // What is wrong is in the source; neither shows the address.
        OpenError::Malformed(shown(&error))
    })?;
    if let Some(password) = &options.password {
        config.password(&password.0);
    }
    config.application_name("mainstay");
    config.connect_timeout(options.connect_wait);
    config.keepalives_idle(Duration::from_secs(10));
    config.keepalives_interval(Duration::from_secs(3));
    config.tcp_user_timeout(options.reply_wait);
    match (config.get_ssl_mode(), config.get_hosts().iter().all(is_local)) {
        (SslMode::Disable, _) | (SslMode::Prefer, true) => config.ssl_mode(SslMode::Disable),
        _ => config.ssl_mode(SslMode::Require),
    };
    Ok(config)
}

/// A session, which ends when this is dropped.
pub(crate) struct PostgresLink {
    client: Client,
    get: Statement,
    page: Statement,
    put: Statement,
    remove: Statement,
}

impl Link for PostgresLink {
    async fn begin(&mut self, mode: Mode, first: &[Place]) -> Result<Vec<Found>, Failure> {
        // The lock is a statement of its own, so that what follows sees what was committed before
        // it was had.
        let begin = match mode {
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Mode::Write => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; \
                 SELECT FROM mainstay_rows WHERE tab = 0 AND key = 'format' FOR UPDATE"
            }
        };
        if first.is_empty() {
            self.client.batch_execute(begin).await.map_err(|error| failure(&error))?;
            return Ok(Vec::new());
        }
        let (begun, found) = tokio::join!(
            biased;
            self.client.batch_execute(begin),
            self.read(first),
        );
        begun.map_err(|error| failure(&error))?;
        found
    }

    async fn get_many(&mut self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        self.read(places).await
    }

    async fn page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let rows = self.client.query(&self.page, &[&(table as i16), &from, &max]).await;
        let rows = rows.map_err(|error| failure(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn commit(&mut self, writes: &Writes) -> Result<(), CommitFailure> {
        let (puts, removes) = columns(writes);
        let put =
            async { self.client.execute(&self.put, &[&puts.0, &puts.1, &puts.2]).await.map(drop) };
        let remove = async {
            if removes.0.is_empty() {
                return Ok(());
            }
            self.client.execute(&self.remove, &[&removes.0, &removes.1]).await.map(drop)
        };
        // After a statement that failed, the commit is a roll-back.
        let (put, remove, commit) =
            tokio::join!(biased; put, remove, self.client.batch_execute("COMMIT"));
        if let Some(error) = put.err().or(remove.err()) {
            // Without a word of the server the rest may have been done all the same.
            return Err(match (error.as_db_error(), failure(&error)) {
                (None, Failure::Retry(reason) | Failure::Lost(reason)) => {
                    CommitFailure::Unknown(reason)
                }
                (Some(_), Failure::Retry(reason)) => CommitFailure::Retry(reason),
                (Some(_), Failure::Lost(reason)) => CommitFailure::Lost(reason),
            });
        }
        commit.map_err(|error| match failure(&error) {
            Failure::Retry(reason) => CommitFailure::Retry(reason),
            Failure::Lost(reason) => CommitFailure::Unknown(reason),
        })
    }

    async fn abort(&mut self) -> Result<(), Failure> {
        self.client.batch_execute("ROLLBACK").await.map_err(|error| failure(&error))
    }
}

impl PostgresLink {
    async fn new(client: Client) -> Result<Self, tokio_postgres::Error> {
        let (get, page, put, remove) = tokio::try_join!(
            client.prepare(GET),
            client.prepare(PAGE),
            client.prepare(PUT),
            client.prepare(REMOVE),
        )?;
        Ok(PostgresLink { client, get, page, put, remove })
    }

    async fn read(&self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        let tables: Vec<i16> = places.iter().map(|(table, _)| *table as i16).collect();
        let keys: Vec<&[u8]> = places.iter().map(|(_, key)| key.as_slice()).collect();
        let rows = self.client.query(&self.get, &[&tables, &keys]).await;
        let mut found = vec![None; places.len()];
        for row in rows.map_err(|error| failure(&error))? {
            // Counted from one.
            let at: i64 = row.get(0);
            let place = usize::try_from(at - 1).ok().and_then(|at| found.get_mut(at));
            *place.ok_or_else(|| Failure::Lost("a row nobody asked for".to_owned()))? =
                Some(row.get(1));
        }
        Ok(found)
    }
}

/// Rows to put, and rows to remove, as the statements take them.
fn columns(writes: &Writes) -> ((Vec<i16>, Vec<&[u8]>, Vec<&[u8]>), Columns<'_>) {
    let (mut puts, mut removes) = ((Vec::new(), Vec::new(), Vec::new()), Columns::default());
    for ((table, key), row) in writes {
        if let Some(row) = row {
            puts.0.push(*table as i16);
            puts.1.push(key.as_slice());
            puts.2.push(row.as_slice());
        } else {
            removes.0.push(*table as i16);
            removes.1.push(key.as_slice());
        }
    }
    (puts, removes)
}

/// What every session is set to: waits have an end, and rows are found by their index whatever the
/// planner believes of the table's size. No statement is timed by the server: that would acknowledge
/// a commit for which a synchronous standby is still awaited.
fn session(options: &ServerOptions) -> String {
    let ms = |wait: Duration| wait.as_millis().max(1);
    let mut session = format!(
        "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
         SET statement_timeout = 0; SET tcp_user_timeout = {}; SET client_min_messages = error; \
         SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
         SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off;",
        ms(options.lock_wait),
        ms(options.holder_wait),
        ms(options.reply_wait),
    );
    if !options.accept_loss {
        session.push_str(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off';",
        );
    }
    session
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    let again = [
        &SqlState::LOCK_NOT_AVAILABLE,
        &SqlState::T_R_DEADLOCK_DETECTED,
        &SqlState::T_R_SERIALIZATION_FAILURE,
    ];
    if error.code().is_some_and(|code| again.contains(&code)) {
        Failure::Retry(shown(error))
    } else {
        Failure::Lost(shown(error))
    }
}

/// The error with its causes. None of them has the password or a row in it.
fn shown(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Whether what is said to a host stays on this machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => stays_here(name),
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// Whom a server's certificate must come from.
fn trust(options: &ServerOptions) -> Result<rustls::ClientConfig, OpenError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(file) = &options.authorities {
        let wrong = |reason: String| {
            OpenError::Malformed(format!("the authorities in {}: {reason}", file.display()))
        };
        let certificates =
            CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Malformed(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
