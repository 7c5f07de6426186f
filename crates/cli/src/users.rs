use anyhow::Context;
use mainstay::Exit;
use mainstay::bus::{Accepted, Delivery, Trigger};
use mainstay::env::Clock;
use mainstay::node::{USERS_TOPIC, UsersOrder};
use mainstay::proto::codec::{
    put_array, put_bool, put_f64, put_int, put_map, put_nil, put_text, put_uint,
};
use mainstay::tables::{Data, Limits, Value, parse};

use crate::trigger::Place;

#[derive(clap::Args)]
pub struct Users {
    #[command(subcommand)]
    act: Act,
}

#[derive(clap::Subcommand)]
enum Act {
    /// Calls a method of their clients, as a game's `sync` does.
    Push {
        /// Its name, such as `hear`.
        method: String,
        /// Its arguments, a JSON array such as `["the event begins", 7]`.
        #[arg(default_value = "[]")]
        arguments: String,
        #[command(flatten)]
        whom: Whom,
    },
    /// Ends their sessions.
    Close {
        /// What they are told.
        reason: String,
        #[command(flatten)]
        whom: Whom,
    },
}

#[derive(clap::Args)]
struct Whom {
    /// An account; may be given several times. Without any: all users.
    #[arg(long = "account", conflicts_with = "logged_in")]
    accounts: Vec<u64>,
    /// Only those that the game has logged in, or with `--logged-in=false` only the others.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    logged_in: Option<bool>,
    /// Only those that have this tag; may be given several times.
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Not this account; may be given several times.
    #[arg(long)]
    except: Vec<u64>,
    /// Of orders with the same key one is carried out.
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl Users {
    /// Gives the order to the game, whose app allows it by `users_from_bus`.
    pub fn run(self) -> anyhow::Result<Exit> {
        let (act, text, arguments, whom) = match self.act {
            Act::Push { method, arguments, whom } => ("push", method, encode(&arguments)?, whom),
            Act::Close { reason, whom } => ("close", reason, Vec::new(), whom),
        };
        let clock = Clock::system();
        let bus = whom.place.open(&clock)?;
        bus.declare(USERS_TOPIC, Delivery::AtLeastOnce)?;
        let chosen = match (whom.accounts.is_empty(), whom.logged_in) {
            (false, _) => "accounts",
            (true, None) => "all",
            (true, Some(true)) => "logged_in",
            (true, Some(false)) => "not_logged_in",
        };
        let order = UsersOrder {
            whom: chosen.to_owned(),
            accounts: whom.accounts,
            tags: whom.tags,
            except: whom.except,
            act: act.to_owned(),
            text,
            arguments,
        };
        let trigger = Trigger::new(bus, &clock, whom.place.within());
        match trigger.send(USERS_TOPIC, whom.key.as_deref(), order.encode())? {
            Accepted::New => println!("accepted"),
            Accepted::Repeated => println!("accepted before"),
        }
        Ok(Exit::Well)
    }
}

/// Arguments as a client reads them: the array's values as one message.
fn encode(text: &str) -> anyhow::Result<Vec<u8>> {
    let value = parse("arguments", text.as_bytes(), &Limits::default());
    let value = value.map_err(|problem| anyhow::anyhow!("{problem}"))?;
    anyhow::ensure!(matches!(value.data, Data::List(_)), "the arguments are a JSON array");
    let mut out = Vec::new();
    put(&value, &mut out).context("the arguments")?;
    Ok(out)
}

fn put(value: &Value, out: &mut Vec<u8>) -> anyhow::Result<()> {
    match &value.data {
        Data::Null => put_nil(out),
        Data::Bool(value) => put_bool(out, *value),
        Data::Int(number) => match (u64::try_from(*number), i64::try_from(*number)) {
            (Ok(number), _) => put_uint(out, number),
            (_, Ok(number)) => put_int(out, number),
            _ => anyhow::bail!("{number} is too great"),
        },
        Data::Float(number) => put_f64(out, *number),
        Data::Text(text) => put_text(out, text),
        Data::List(values) => {
            put_array(out, values.len());
            values.iter().try_for_each(|value| put(value, out))?;
        }
        Data::Map(map) => {
            put_map(out, map.iter().count());
            for entry in map.iter() {
                put_text(out, &entry.name);
                put(&entry.value, out)?;
            }
        }
    }
    Ok(())
}
