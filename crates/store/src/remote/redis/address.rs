//! What an address of a shard in Redis says.

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::error::OpenError;
use crate::remote::options::ServerOptions;

const SHARD_BYTES_MAX: usize = 64;

/// A parsed address.
pub(super) struct Address {
    pub at: Where,
    /// What all keys of the shard begin with.
    pub prefix: String,
    /// For log lines and errors: no password.
    pub shown: String,
    /// User, password and database on whatever server it is.
    login: RedisConnectionInfo,
}

/// Where the server is.
pub(super) enum Where {
    Server(Client),
    /// Those who know, and the name they know it by.
    Sentinels {
        sentinels: Vec<Client>,
        name: String,
    },
}

impl Address {
    pub fn parse(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let (url, shard) = split_shard(url)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if shard.is_empty() || shard.len() > SHARD_BYTES_MAX || !shard.chars().all(is_name) {
            return Err(malformed("a shard's name has letters, digits, - and _, at most 64"));
        }
        let prefix = format!("mainstay:{{{shard}}}");
        let password = options.password.as_ref().map(|password| password.0.as_str());
        if let Some(rest) = url.strip_prefix("redis-sentinel://") {
            return Self::sentinels(rest, prefix, &shard, password);
        }
        let info = url.as_str().into_connection_info().map_err(unusable)?;
        let login = with_password(info.redis_settings().clone(), password);
        let shown = format!("Redis at {}, shard {shard}", info.addr());
        let client = Client::open(info.set_redis_settings(login.clone())).map_err(unusable)?;
        Ok(Self { at: Where::Server(client), prefix, shown, login })
    }

    /// `user:password@host:port,host:port/name/database`; the user is of the server, not of the sentinels.
    fn sentinels(
        rest: &str,
        prefix: String,
        shard: &str,
        password: Option<&str>,
    ) -> Result<Self, OpenError> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (name, database) = path.split_once('/').unwrap_or((path, "0"));
        if name.is_empty() {
            return Err(malformed("it does not say by which name sentinels know the primary"));
        }
        let at = if user.is_empty() { String::new() } else { format!("{user}@") };
        let server = format!("redis://{at}localhost/{database}").as_str().into_connection_info();
        let login = with_password(server.map_err(unusable)?.redis_settings().clone(), password);
        let sentinel = |host: &str| Client::open(format!("redis://{host}")).map_err(unusable);
        let sentinels = hosts.split(',').map(sentinel).collect::<Result<_, _>>()?;
        let shown = format!("Redis primary {name} of sentinels at {hosts}, shard {shard}");
        let name = name.to_owned();
        Ok(Self { at: Where::Sentinels { sentinels, name }, prefix, shown, login })
    }

    /// The server at an address that a sentinel gave.
    pub fn client(&self, host: &str, port: u16) -> Result<Client, OpenError> {
        let address = ConnectionAddr::Tcp(host.to_owned(), port);
        let info: ConnectionInfo = address.into_connection_info().map_err(unusable)?;
        Client::open(info.set_redis_settings(self.login.clone())).map_err(unusable)
    }
}

/// The address without our own parameter, and that.
fn split_shard(url: &str) -> Result<(String, String), OpenError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut shard = "0".to_owned();
    let mut rest = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("shard", name)) => shard = name.to_owned(),
            Some(_) => rest.push(part),
            None => return Err(malformed("a parameter has no value")),
        }
    }
    let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    Ok((format!("{base}{rest}"), shard))
}

fn with_password(login: RedisConnectionInfo, password: Option<&str>) -> RedisConnectionInfo {
    match password {
        Some(password) => login.set_password(password),
        None => login,
    }
}

fn malformed(reason: &str) -> OpenError {
    OpenError::Malformed(reason.to_owned())
}

fn unusable(error: ::redis::RedisError) -> OpenError {
    OpenError::Malformed(error.to_string())
}
