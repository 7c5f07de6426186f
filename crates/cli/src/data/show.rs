use anyhow::ensure;
use mainstay::Exit;
use mainstay::proto::codec::Dump;
use mainstay::store::dump::Place;
use mainstay::store::{AuditEntry, Entity, Holdings, INDEX_SHEET, Key, LedgerOp, Store};

use super::open::{Where, entity, kind_id, shown};
use super::time;

/// Number of the table of entities; see docs/store-format.md.
const ENTITIES: u8 = 2;
/// Rows and history are read in pieces of about this size.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ENTRIES: usize = 1_000;

#[derive(clap::Args)]
pub struct List {
    #[command(flatten)]
    place: Where,
    /// Only entities of this kind, such as `avatar`.
    #[arg(long)]
    kind: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

#[derive(clap::Args)]
pub struct Show {
    /// `KIND/NUMBER`, such as `avatar/7` for the player of account 7.
    entity: String,
    #[command(flatten)]
    place: Where,
    /// How many of the last transactions are shown; 0 for none.
    #[arg(long, default_value_t = 20)]
    history: usize,
    /// Characters of each document.
    #[arg(long, default_value_t = 2_000)]
    chars: usize,
}

impl List {
    pub fn run(self) -> anyhow::Result<Exit> {
        let store = self.place.open_one()?;
        let kind = self.kind.as_deref().map(|name| u128::from(kind_id(name)));
        let first = kind.map_or(0, |kind| kind << 64);
        // A row of that key itself comes after its neighbour below.
        let from = first.checked_sub(1).map(u128::to_be_bytes);
        let mut after = Place { table: ENTITIES, key: from.map_or(Vec::new(), Vec::from) };
        let mut left = self.limit;
        println!(
            "{:<40} {:>6} {:>8} {:>9} {:>8}  owner",
            "entity", "epoch", "version", "parts", "bytes"
        );
        while left > 0 {
            let rows = store.rows(Some(after.clone()), PAGE_BYTES).wait()?;
            let rows = rows.into_iter().take_while(|row| row.place.table == ENTITIES);
            let keys: Vec<_> = rows.map(|row| row.place.key).collect();
            let Some(last) = keys.last() else { break };
            after.key.clone_from(last);
            for key in &keys {
                let key = Key(u128::from_be_bytes(key.as_slice().try_into()?));
                if kind.is_some_and(|kind| key.0 >> 64 != kind) || left == 0 {
                    return Ok(Exit::Well);
                }
                left -= 1;
                let Some(entity) = store.load(key).wait()? else { continue };
                list_line(key, &entity);
            }
        }
        Ok(Exit::Well)
    }
}

fn list_line(key: Key, entity: &Entity) {
    let bytes: usize = entity.documents.values().map(Vec::len).sum();
    let owner = if entity.owner.released {
        "released".to_owned()
    } else {
        format!("node {}", entity.owner.incarnation)
    };
    let parts = entity.documents.len();
    let (epoch, version) = (entity.owner.epoch, entity.version);
    println!("{:<40} {epoch:>6} {version:>8} {parts:>9} {bytes:>8}  {owner}", shown(key));
}

impl Show {
    pub fn run(self) -> anyhow::Result<Exit> {
        let key = entity(&self.entity)?;
        let store = self.place.open()?;
        if store.shards().is_empty() && self.history > 0 {
            // Each shard behind data processes has its own history.
            let names = store.shard_names().wait()?;
            ensure!(
                names.is_empty(),
                "the store has the shards {}: name one by --shard, or none by --history 0",
                names.join(", ")
            );
        }
        println!("{} ({key})", shown(key));
        let found = store.load(key).wait()?;
        let held = store.holdings(key).wait()?;
        match &found {
            None => println!("\nit has no documents: it was never active in this store"),
            Some(entity) => self.show_entity(&store, entity)?,
        }
        show_holdings(&held);
        if self.history > 0 {
            self.show_history(&store, key)?;
        }
        Ok(if found.is_some() || held.version > 0 { Exit::Well } else { Exit::Unfinished })
    }

    fn show_entity(&self, store: &Store, entity: &Entity) -> anyhow::Result<()> {
        let owner = entity.owner;
        let node = store.node(owner.incarnation).wait()?;
        let state = match node {
            _ if owner.released => "gave it back",
            Some(node) if !node.alive => "is dead, so it is free",
            Some(_) => "has it",
            None => "is not known",
        };
        println!("\nowner: epoch {}, node {}, which {state}", owner.epoch, owner.incarnation);
        println!("documents: version {}", entity.version);
        for (name, bytes) in entity.documents.iter().filter(|(name, _)| *name != INDEX_SHEET) {
            let text = Dump { bytes, chars_max: self.chars };
            println!("  {name} ({} bytes): {text}", bytes.len());
        }
        Ok(())
    }

    fn show_history(&self, store: &Store, key: Key) -> anyhow::Result<()> {
        let mut entries = history(store, key, 0)?;
        let earlier = entries.len().saturating_sub(self.history);
        println!("\nhistory: {} transactions", entries.len());
        if earlier > 0 {
            println!("  {earlier} earlier ones are not shown: --history {}", entries.len());
        }
        for entry in entries.drain(earlier..) {
            println!("  {} {} {:?}", time::shown(entry.at_ms), entry.txn, entry.note);
            for op in entry.ops.iter().filter(|op| concerns(op, key)) {
                println!("    {}", op_line(op, key));
            }
        }
        Ok(())
    }
}

fn show_holdings(held: &Holdings) {
    println!("\nholdings: version {}", held.version);
    for (currency, amount) in &held.balances {
        println!("  {currency}: {amount}");
    }
    for (id, item) in &held.items {
        let data = Dump { bytes: &item.data, chars_max: 200 };
        println!("  {id}: {}, {} bytes {data}", item.kind, item.data.len());
    }
}

/// All transactions after a place that concern an entity or holder, oldest first.
pub fn history(store: &Store, key: Key, mut after: u64) -> anyhow::Result<Vec<AuditEntry>> {
    let mut found = Vec::new();
    if !store.shards().is_empty() {
        // Its slot may have moved: each shard knows what happened there.
        for (_, shard) in store.shards() {
            found.extend(history(shard, key, after)?);
        }
        found.sort_by_key(|entry| entry.at_ms);
        return Ok(found);
    }
    loop {
        let page = store.audit(after, PAGE_ENTRIES).wait()?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.sequence;
        found.extend(page.into_iter().filter(|entry| {
            entry.ops.iter().any(|op| concerns(op, key))
                || entry.claims.iter().any(|claim| claim.key == key)
        }));
    }
}

fn concerns(op: &LedgerOp, key: Key) -> bool {
    match op {
        LedgerOp::Make { holder, .. }
        | LedgerOp::Change { holder, .. }
        | LedgerOp::Destroy { holder, .. }
        | LedgerOp::Mint { holder, .. }
        | LedgerOp::Burn { holder, .. }
        | LedgerOp::SendItem { holder, .. }
        | LedgerOp::ReceiveItem { holder, .. }
        | LedgerOp::Send { holder, .. }
        | LedgerOp::Receive { holder, .. } => *holder == key,
        LedgerOp::Move { from, to, .. } | LedgerOp::Pay { from, to, .. } => {
            *from == key || *to == key
        }
    }
}

fn op_line(op: &LedgerOp, me: Key) -> String {
    match op {
        LedgerOp::Make { item, kind, .. } => format!("+ {item} made, {kind}"),
        LedgerOp::Change { item, .. } => format!("~ {item} changed"),
        LedgerOp::Destroy { item, .. } => format!("- {item} destroyed"),
        LedgerOp::Mint { currency, amount, .. } => format!("+ {amount} of {currency}, made"),
        LedgerOp::Burn { currency, amount, .. } => format!("- {amount} of {currency}, destroyed"),
        LedgerOp::Move { item, from, to } if *to == me => format!("+ {item} from {}", shown(*from)),
        LedgerOp::Move { item, to, .. } => format!("- {item} to {}", shown(*to)),
        LedgerOp::Pay { from, to, currency, amount } if *to == me => {
            format!("+ {amount} of {currency} from {}", shown(*from))
        }
        LedgerOp::Pay { to, currency, amount, .. } => {
            format!("- {amount} of {currency} to {}", shown(*to))
        }
        LedgerOp::SendItem { item, .. } => format!("- {item} sent to another shard"),
        LedgerOp::ReceiveItem { item, .. } => format!("+ {item} from another shard"),
        LedgerOp::Send { currency, amount, .. } => {
            format!("- {amount} of {currency} sent to another shard")
        }
        LedgerOp::Receive { currency, amount, .. } => {
            format!("+ {amount} of {currency} from another shard")
        }
    }
}
