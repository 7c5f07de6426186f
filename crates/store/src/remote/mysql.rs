//! A shard in a MariaDB or MySQL database: one table of rows.
//!
//! The shard's lock is the row that names the format. Each step is one message of several
//! statements; the protocol has no other way to save round trips.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Opts, OptsBuilder, Row, SslOpts};

use super::options::ServerOptions;
use super::{
    CommitFailure, ConnectError, Failure, Found, Link, Listed, Mode, Page, Place, Server, Watch,
    each_host, first_writes, stays_here,
};
use crate::error::OpenError;
use crate::row::{hex, push_hex};
use crate::tables::{Table, Writes};
use crate::watcher::{Seen, hosts_of};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS mainstay_rows (tab SMALLINT NOT NULL, \
    k VARBINARY(255) NOT NULL, r LONGBLOB NOT NULL, PRIMARY KEY (tab, k)) \
    ENGINE = InnoDB ROW_FORMAT = DYNAMIC";
/// A former primary may be made read-only while users with all rights still write.
const LOCK: &str =
    "SELECT @@read_only FROM mainstay_rows WHERE tab = 0 AND k = 'format' FOR UPDATE";
/// What the server must take in one packet: the largest row in hexadecimal, with room to spare.
const PACKET_MIN: usize = 8 << 20;
/// Bytes of one statement that writes, at most but for one row.
const STATEMENT_MAX: usize = 2 << 20;

/// Where the server is if an address does not say it.
const PORT: u16 = 3306;
/// Between looks at a replica that does what it has received.
const APPLY_PAUSE: Duration = Duration::from_millis(20);

/// Access, rights, and a database that is not there.
const DENIED: [u16; 8] = [1044, 1045, 1049, 1130, 1142, 1227, 1251, 1698];
/// Lock wait timeout and deadlock.
const IN_THE_WAY: [u16; 2] = [1205, 1213];

/// Where the database is.
pub(crate) struct Mysql {
    /// One for each host.
    opts: Vec<Opts>,
    names: Vec<String>,
    followers: Vec<Opts>,
    shown: String,
    options: ServerOptions,
}

impl Mysql {
    /// Reads an address: `mysql://user@host:port/database`, or several hosts by commas.
    pub fn new(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let read = |url: &str| {
            let each = each_host(url).into_iter().map(|url| Opts::from_url(&url));
            let all = each.collect::<Result<Vec<_>, _>>();
            all.map_err(|error| OpenError::Malformed(error.to_string()))
        };
        let all = read(url)?;
        let mut followers = Vec::new();
        for url in &options.followers {
            let is_plain = url.contains("require_ssl=false");
            followers.extend(read(url)?.into_iter().map(|opts| dressed(opts, is_plain, options)));
        }
        let Some(database) = all.first().and_then(Opts::db_name).map(str::to_owned) else {
            return Err(OpenError::Malformed("it names no database".to_owned()));
        };
        let at: Vec<_> = all
            .iter()
            .map(|opts| format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port()))
            .collect();
        let shown = format!("MySQL database {database} at {}", at.join(","));
        let is_plain = url.contains("require_ssl=false");
        let opts = all.into_iter().map(|opts| dressed(opts, is_plain, options)).collect();
        Ok(Mysql { opts, names: hosts_of(url, PORT), followers, shown, options: options.clone() })
    }

    fn refuse(&self, reason: &str) -> ConnectError {
        let (server, reason) = (self.shown.clone(), reason.to_owned());
        ConnectError::Refused(OpenError::NotDurable { server, reason })
    }

    /// Whether a failed connection is worth another try.
    fn refusal(&self, error: &mysql_async::Error) -> ConnectError {
        match error {
            mysql_async::Error::Server(said) if DENIED.contains(&said.code) => {
                let (server, reason) = (self.shown.clone(), shown(error));
                ConnectError::Refused(OpenError::Denied { server, reason })
            }
            mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                let reason = "it does not encrypt; set it up, or say require_ssl=false".to_owned();
                ConnectError::Refused(OpenError::Denied { server: self.shown.clone(), reason })
            }
            _ => ConnectError::Away(shown(error)),
        }
    }

    /// Refuses a server that would lose what it acknowledged, or cannot take our rows.
    async fn check(&self, conn: &mut Conn) -> Result<(), ConnectError> {
        // As text, because servers differ in the types.
        let names = [
            "read_only",
            "innodb_flush_log_at_trx_commit",
            "max_allowed_packet",
            "log_bin",
            "sync_binlog",
            "innodb_doublewrite",
        ];
        let columns = names.map(|name| format!("CAST(@@{name} AS CHAR)")).join(", ");
        let row: Option<Row> = conn
            .query_first(format!("SELECT {columns}"))
            .await
            .map_err(|error| self.refusal(&error))?;
        let mut row = row.ok_or_else(|| ConnectError::Away("it tells no settings".to_owned()))?;
        let mut column = 0..;
        let [read_only, flush, packet, log_bin, sync_binlog, doublewrite] = names.map(|_| {
            let value = column.next().and_then(|at| row.take_opt::<String, _>(at));
            value.and_then(Result::ok).unwrap_or_default()
        });
        let is_on = |value: &str| !["0", "OFF", ""].contains(&value);
        if is_on(&read_only) {
            return Err(ConnectError::Away("it is read-only; name the primary".to_owned()));
        }
        if packet.parse().is_ok_and(|packet: usize| packet < PACKET_MIN) {
            let reason = format!("set max_allowed_packet to {PACKET_MIN} or more");
            let server = self.shown.clone();
            return Err(ConnectError::Refused(OpenError::Denied { server, reason }));
        }
        if self.options.accept_loss {
            return Ok(());
        }
        if flush != "1" {
            return Err(self.refuse("set innodb_flush_log_at_trx_commit = 1"));
        }
        if is_on(&log_bin) && sync_binlog != "1" {
            return Err(self.refuse("set sync_binlog = 1, or switch the binary log off"));
        }
        if !is_on(&doublewrite) {
            return Err(self.refuse("set innodb_doublewrite = ON"));
        }
        Ok(())
    }

    /// Makes the table and the first rows unless they are there. Each is one step, so that several
    /// processes may come at once.
    async fn found(&self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        let there = "SELECT COUNT(*) FROM information_schema.tables \
            WHERE table_schema = DATABASE() AND table_name = 'mainstay_rows'";
        // Asked first because creating needs rights that a user may lack afterwards.
        if conn.query_first::<u64, _>(there).await? != Some(1) {
            conn.query_drop(CREATE).await?;
        }
        let is_there = "SELECT 1 FROM mainstay_rows WHERE tab = 0 AND k = 'format'";
        if conn.query_first::<u8, _>(is_there).await?.is_none() {
            let mut insert = String::from("INSERT IGNORE INTO mainstay_rows (tab, k, r) VALUES ");
            for ((table, key), row) in first_writes() {
                push_row(&mut insert, table, &key, &row.unwrap_or_default());
                insert.push(',');
            }
            insert.pop();
            conn.query_drop(insert).await?;
        }
        Ok(())
    }
}

/// How to connect to one host.
fn dressed(opts: Opts, is_plain: bool, options: &ServerOptions) -> Opts {
    let is_local = stays_here(opts.ip_or_hostname()) || opts.socket().is_some();
    let mut ssl = opts.ssl_opts().cloned();
    if ssl.is_none() && !is_local && !is_plain {
        ssl = Some(SslOpts::default());
    }
    if let (Some(ssl), Some(file)) = (&mut ssl, &options.authorities) {
        *ssl = ssl.clone().with_root_certs(vec![file.clone().into()]);
    }
    let mut builder = OptsBuilder::from_opts(opts)
        .ssl_opts(ssl)
        // It would leave the address it was given for one the server names.
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(10)));
    if let Some(password) = &options.password {
        builder = builder.pass(Some(password.0.clone()));
    }
    builder.into()
}

impl Server for Mysql {
    type Link = MysqlLink;
    const KIND: &'static str = "mysql";

    fn shown(&self) -> String {
        self.shown.clone()
    }

    fn hosts(&self) -> usize {
        self.opts.len()
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    async fn connect(&self, host: usize) -> Result<MysqlLink, ConnectError> {
        let refusal = |error: mysql_async::Error| self.refusal(&error);
        let mut conn = Conn::new(self.opts[host].clone()).await.map_err(refusal)?;
        self.check(&mut conn).await?;
        let mut link = self.set_up(conn).await.map_err(refusal)?;
        self.found(&mut link.conn).await.map_err(refusal)?;
        Ok(link)
    }

    fn followers(&self) -> usize {
        self.followers.len()
    }

    async fn connect_follower(&self, follower: usize) -> Result<MysqlLink, ConnectError> {
        let refusal = |error: mysql_async::Error| self.refusal(&error);
        let conn = Conn::new(self.followers[follower].clone()).await.map_err(refusal)?;
        self.set_up(conn).await.map_err(refusal)
    }
}

impl Watch for Mysql {
    type Line = Conn;

    async fn list(&self) -> Result<Listed, String> {
        Ok(Listed { names: self.names.clone(), primary: None })
    }

    async fn line(&self, name: &str) -> Result<Conn, String> {
        let host = self.names.iter().position(|known| known == name);
        let opts = host.and_then(|host| self.opts.get(host));
        let opts = opts.ok_or_else(|| format!("there is no server {name}"))?.clone();
        Conn::new(opts).await.map_err(|error| shown(&error))
    }

    async fn see(&self, line: &mut Conn) -> Result<Seen, String> {
        let ask = "SELECT CAST(@@read_only AS CHAR)";
        let read_only: Option<String> =
            line.query_first(ask).await.map_err(|error| shown(&error))?;
        let is_primary = read_only.is_some_and(|value| ["0", "OFF"].contains(&value.as_str()));
        // What is received counts: it is done before a replica is promoted. Where the user may not see it, or
        // the server is no MariaDB, all have the same.
        let received = status(line).await.ok().flatten();
        let received = received.and_then(|row| text(&row, "Gtid_IO_Pos"));
        let own: Option<String> =
            line.query_first("SELECT @@gtid_current_pos").await.ok().flatten();
        let both = [received, own].into_iter().flatten();
        let position = both.map(|gtids| gtid_sum(&gtids)).max().unwrap_or(0);
        Ok(Seen { is_primary, position })
    }

    async fn promote(&self, _: &str, to: &str) -> Result<(), String> {
        let mut line = self.line(to).await?;
        let said = |error: mysql_async::Error| {
            let said = shown(&error);
            format!("{said}; its user must be allowed to stop the replica and to set read_only")
        };
        if self.see(&mut line).await?.is_primary {
            return Ok(());
        }
        let version: Option<String> = line.query_first("SELECT VERSION()").await.map_err(said)?;
        if !version.is_some_and(|version| version.contains("MariaDB")) {
            return Err("only MariaDB is promoted: promote it by hand".to_owned());
        }
        line.query_drop("STOP SLAVE IO_THREAD").await.map_err(said)?;
        loop {
            let status = status(&mut line).await.map_err(said)?;
            let status = status.ok_or_else(|| "it is no replica".to_owned())?;
            let state = text(&status, "Slave_SQL_Running_State").unwrap_or_default();
            if state.contains("has read all relay log") {
                break;
            }
            if text(&status, "Slave_SQL_Running").is_none_or(|runs| runs != "Yes") {
                let error = text(&status, "Last_SQL_Error").unwrap_or_default();
                return Err(format!("it does not do what it has received: {error}"));
            }
            tokio::time::sleep(APPLY_PAUSE).await;
        }
        // In this order: whoever goes on with it later finds that it takes writes.
        let take = "STOP SLAVE; SET GLOBAL read_only = OFF; RESET SLAVE ALL";
        line.query_drop(take).await.map_err(said)
    }
}

/// How far a replica is; `None` of a server that is none.
async fn status(line: &mut Conn) -> Result<Option<Row>, mysql_async::Error> {
    line.query_first("SHOW SLAVE STATUS").await
}

fn text(row: &Row, column: &str) -> Option<String> {
    row.get_opt::<String, _>(column).and_then(Result::ok)
}

/// The numbers of all domains together, of `domain-server-number,..`.
fn gtid_sum(gtids: &str) -> u64 {
    let number = |gtid: &str| gtid.rsplit('-').next().and_then(|number| number.trim().parse().ok());
    gtids.split(',').filter_map(number).fold(0, u64::saturating_add)
}

impl Mysql {
    /// Sets a session up.
    async fn set_up(&self, mut conn: Conn) -> Result<MysqlLink, mysql_async::Error> {
        let seconds = |wait: Duration| wait.as_secs().max(1);
        let holder = seconds(self.options.holder_wait);
        let is_mariadb: Option<String> = conn.query_first("SELECT VERSION()").await?;
        let is_mariadb = is_mariadb.is_some_and(|version| version.contains("MariaDB"));
        let mut session = format!(
            "SET SESSION innodb_lock_wait_timeout = {}, net_read_timeout = {holder}, \
             net_write_timeout = {holder}, autocommit = 1, \
             sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
            seconds(self.options.lock_wait),
        );
        // A holder of the lock that says nothing more is cut off by the server. MySQL knows that
        // only for sessions, so there it is set for the time of a transaction.
        let (patience, calm) = if is_mariadb {
            session.push_str(&format!(
                ", idle_transaction_timeout = {holder}, in_predicate_conversion_threshold = 0"
            ));
            (String::new(), String::new())
        } else {
            let patience = format!("SET SESSION wait_timeout = {holder}; ");
            (patience, "; SET SESSION wait_timeout = 28800".to_owned())
        };
        session.push_str("; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED");
        conn.query_drop(session).await?;
        Ok(MysqlLink { conn, patience, calm })
    }
}

/// A session, which ends when this is dropped.
pub(crate) struct MysqlLink {
    conn: Conn,
    /// Said before a transaction, and after it.
    patience: String,
    calm: String,
}

impl Link for MysqlLink {
    async fn begin(&mut self, mode: Mode, first: &[Place]) -> Result<Vec<Found>, Failure> {
        let begin = match mode {
            Mode::Read => {
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
                 START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
            }
            Mode::Write => "START TRANSACTION",
        };
        let mut text = format!("{}{begin}", self.patience);
        if mode == Mode::Write {
            text.push_str("; ");
            text.push_str(LOCK);
        }
        if !first.is_empty() {
            text.push_str("; ");
            push_select(&mut text, first);
        }
        self.read(text, first).await
    }

    async fn get_many(&mut self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = String::new();
        push_select(&mut text, places);
        self.read(text, places).await
    }

    async fn page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let text = format!(
            "SELECT k, r FROM mainstay_rows WHERE tab = {} AND k >= x'{}' ORDER BY k LIMIT {max}",
            table as u8,
            hex(from),
        );
        let rows: Vec<Row> = self.conn.query(text).await.map_err(|error| failure(&error))?;
        rows.into_iter().map(|mut row| Ok((bytes(&mut row, 0)?, bytes(&mut row, 1)?))).collect()
    }

    async fn commit(&mut self, writes: &Writes) -> Result<(), CommitFailure> {
        let mut statements = statements(writes);
        let (last, before) = statements.pop().unwrap_or_default();
        // Most commits fit one message; of the others nothing counts before the last one.
        for (statement, _) in statements {
            self.conn.query_drop(statement).await.map_err(|error| match failure(&error) {
                Failure::Retry(reason) => CommitFailure::Retry(reason),
                Failure::Lost(reason) => CommitFailure::Lost(reason),
            })?;
        }
        let text = if last.is_empty() { "COMMIT".to_owned() } else { format!("{last}; COMMIT") };
        match self.run(format!("{text}{}", self.calm), |_| Ok(())).await {
            Ok(()) => Ok(()),
            Err((_, Failure::Retry(reason))) => Err(CommitFailure::Retry(reason)),
            // The server refused a statement before the commit.
            Err((Some(done), Failure::Lost(reason))) if done < before => {
                Err(CommitFailure::Lost(reason))
            }
            Err((_, Failure::Lost(reason))) => Err(CommitFailure::Unknown(reason)),
        }
    }

    async fn abort(&mut self) -> Result<(), Failure> {
        let text = format!("ROLLBACK{}", self.calm);
        self.run(text, |_| Ok(())).await.map_err(|(_, failure)| failure)
    }
}

/// Why a message of several statements failed, and if it was the server's word, after how many.
type Broken = (Option<usize>, Failure);

impl MysqlLink {
    /// Has the statements done, and shows all rows of all of them.
    async fn run(
        &mut self,
        text: String,
        mut see: impl FnMut(Row) -> Result<(), Failure>,
    ) -> Result<(), Broken> {
        let mut done = 0;
        let broken = |error: mysql_async::Error, done| {
            let is_said = matches!(error, mysql_async::Error::Server(_));
            (is_said.then_some(done), failure(&error))
        };
        let mut result = self.conn.query_iter(text).await.map_err(|error| broken(error, 0))?;
        let mut seen = Ok(());
        while !result.is_empty() {
            let rows = result.for_each(|row| {
                if seen.is_ok() {
                    seen = see(row);
                }
            });
            rows.await.map_err(|error| broken(error, done + 1))?;
            done += 1;
        }
        result.drop_result().await.map_err(|error| broken(error, done))?;
        seen.map_err(|failure| (None, failure))
    }

    /// Rows at `places`, from a message that selects them.
    async fn read(&mut self, text: String, places: &[Place]) -> Result<Vec<Found>, Failure> {
        let at: BTreeMap<(u8, &[u8]), usize> = places
            .iter()
            .enumerate()
            .map(|(at, (table, key))| ((*table as u8, key.as_slice()), at))
            .collect();
        let mut found = vec![None; places.len()];
        let read = self.run(text, |mut row| {
            // The lock's own answer has one column.
            if row.len() != 3 {
                let is_read_only = row.get_opt::<u8, _>(0).and_then(Result::ok).unwrap_or(0) != 0;
                let refused = || Failure::Lost("it has become read-only".to_owned());
                return if is_read_only { Err(refused()) } else { Ok(()) };
            }
            let table = row.get_opt::<u8, _>(0).and_then(Result::ok);
            let (key, bytes) = (bytes(&mut row, 1)?, bytes(&mut row, 2)?);
            let place = table.and_then(|table| at.get(&(table, key.as_slice())));
            let place = place.ok_or_else(|| Failure::Lost("a row nobody asked for".to_owned()))?;
            found[*place] = Some(bytes);
            Ok(())
        });
        read.await.map_err(|(_, failure)| failure)?;
        Ok(found)
    }
}

fn bytes(row: &mut Row, column: usize) -> Result<Vec<u8>, Failure> {
    let bytes = row.take_opt::<Vec<u8>, _>(column).and_then(Result::ok);
    bytes.ok_or_else(|| Failure::Lost("a column is not what it should be".to_owned()))
}

/// One select over the tables that are asked of. No place is named twice by the caller.
fn push_select(text: &mut String, places: &[Place]) {
    let mut by_table: BTreeMap<Table, Vec<&[u8]>> = BTreeMap::new();
    for (table, key) in places {
        by_table.entry(*table).or_default().push(key);
    }
    for (number, (table, keys)) in by_table.into_iter().enumerate() {
        let union = if number == 0 { "" } else { " UNION ALL " };
        let start = "SELECT tab, k, r FROM mainstay_rows WHERE tab =";
        let _ = write!(text, "{union}{start} {} AND k IN (", table as u8);
        for key in keys {
            text.push_str("x'");
            push_hex(text, key);
            text.push_str("',");
        }
        text.pop();
        text.push(')');
    }
}

fn push_row(text: &mut String, table: Table, key: &[u8], row: &[u8]) {
    let _ = write!(text, "({},x'", table as u8);
    push_hex(text, key);
    text.push_str("',x'");
    push_hex(text, row);
    text.push_str("')");
}

/// Messages that write all, none much longer than allowed, each with the number of its statements.
fn statements(writes: &Writes) -> Vec<(String, usize)> {
    let (start, end) =
        ("INSERT INTO mainstay_rows (tab, k, r) VALUES ", " ON DUPLICATE KEY UPDATE r = VALUES(r)");
    let (mut done, mut text) = (Vec::new(), String::new());
    for ((table, key), row) in writes {
        let Some(row) = row else { continue };
        let bytes = 2 * (key.len() + row.len());
        if !text.is_empty() && text.len() + bytes > STATEMENT_MAX {
            done.push(std::mem::take(&mut text) + end);
        }
        text.push_str(if text.is_empty() { start } else { "," });
        push_row(&mut text, *table, key, row);
    }
    if !text.is_empty() {
        done.push(text + end);
    }
    let mut removes: BTreeMap<Table, String> = BTreeMap::new();
    for ((table, key), _) in writes.iter().filter(|(_, row)| row.is_none()) {
        let _ = write!(removes.entry(*table).or_default(), "x'{}',", hex(key));
    }
    for (table, keys) in removes {
        let keys = keys.trim_end_matches(',');
        let table = table as u8;
        done.push(format!("DELETE FROM mainstay_rows WHERE tab = {table} AND k IN ({keys})"));
    }
    join(done)
}

/// Puts short statements into one message.
fn join(statements: Vec<String>) -> Vec<(String, usize)> {
    let mut messages: Vec<(String, usize)> = Vec::new();
    for statement in statements {
        match messages.last_mut() {
            Some((last, count)) if last.len() + statement.len() < STATEMENT_MAX => {
                last.push_str("; ");
                last.push_str(&statement);
                *count += 1;
            }
            _ => messages.push((statement, 1)),
        }
    }
    messages
}

fn failure(error: &mysql_async::Error) -> Failure {
    match error {
        mysql_async::Error::Server(said) if IN_THE_WAY.contains(&said.code) => {
            Failure::Retry(shown(error))
        }
        _ => Failure::Lost(shown(error)),
    }
}

/// What the server said, or what went wrong. It names the user, never the password.
fn shown(error: &mysql_async::Error) -> String {
    match error {
        mysql_async::Error::Server(said) => format!("{} ({})", said.message, said.code),
        other => other.to_string(),
    }
}
