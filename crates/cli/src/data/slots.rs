use anyhow::{Context, bail, ensure};
use mainstay::Exit;
use mainstay::env::{Clock, Random};
use mainstay::store::{MoveEnd, SLOTS, ShardInfo, Slot, SlotState, Store};

use super::open::{Where, shard};

#[derive(clap::Args)]
pub struct Slots {
    #[command(flatten)]
    place: Where,
}

#[derive(clap::Args)]
pub struct Move {
    #[command(flatten)]
    place: Where,
    /// The shard that has the slots.
    #[arg(long, value_name = "SHARD")]
    from: String,
    /// The shard that gets them.
    #[arg(long, value_name = "SHARD")]
    to: String,
    /// Which slots: numbers and ranges by commas, such as `7,100-199`.
    #[arg(long, conflicts_with = "count")]
    slots: Option<String>,
    /// So many of those that the shard has, instead. Without either, all of them.
    #[arg(long)]
    count: Option<usize>,
    /// How many move at a time: what is written to them waits together at the end. More are faster in
    /// all, since each time all rows of the shard are looked at.
    #[arg(long, default_value_t = 64)]
    group: usize,
    /// Only says what would be moved.
    #[arg(long)]
    dry_run: bool,
}

impl Slots {
    pub fn run(self) -> anyhow::Result<Exit> {
        let store = self.place.open_set()?;
        println!("{:<20} {:>6}  generation", "shard", "slots");
        for (name, info) in store.slot_map()? {
            let here = info.slots.iter().filter(|slot| slot.state.is_here());
            println!("{name:<20} {:>6}  {}", here.count(), info.generation);
            tell_moving(&info);
        }
        Ok(Exit::Well)
    }
}

fn tell_moving(info: &ShardInfo) {
    for (state, what) in [
        (SlotState::Copying, "being copied to"),
        (SlotState::Frozen, "about to go to"),
        (SlotState::Gone, "gone, with rows still to be removed, to"),
        (SlotState::Arriving, "being copied here from"),
    ] {
        let slots: Vec<_> = info.slots.iter().filter(|slot| slot.state == state).collect();
        let mut peers: Vec<&str> = slots.iter().map(|slot| slot.peer.as_str()).collect();
        peers.sort_unstable();
        peers.dedup();
        for peer in peers {
            let of = slots.iter().filter(|slot| slot.peer == peer).map(|slot| slot.slot);
            println!("    {what} {peer}: {}", ranges(&of.collect::<Vec<_>>()));
        }
    }
}

impl Move {
    pub fn run(self) -> anyhow::Result<Exit> {
        ensure!(self.group > 0, "--group is 1 at least");
        let store = self.place.open_set()?;
        let between = (shard(&store, &self.from)?, shard(&store, &self.to)?);
        ensure!(between.0 != between.1, "--from and --to are the same shard");
        let slots = self.chosen(&store, between.0)?;
        if slots.is_empty() {
            println!("shard {} has no slots", self.from);
            return Ok(Exit::Well);
        }
        println!("{} slots from {} to {}: {}", slots.len(), self.from, self.to, ranges(&slots));
        if self.dry_run {
            println!("nothing was moved: it was a dry run");
            return Ok(Exit::Well);
        }
        let mut random = Random::from_os();
        for group in slots.chunks(self.group) {
            let at_ms = Clock::system().wall().0;
            let token = random.u64().max(1);
            let moved = store.move_slots(group.to_vec(), between, token, at_ms, |_| true);
            let (end, counts) = moved;
            let shown = ranges(group);
            match end {
                MoveEnd::Moved => println!(
                    "moved {shown}: {} rows, {} bytes, {} copied again",
                    counts.rows, counts.bytes, counts.again
                ),
                MoveEnd::GivenUp(why) => {
                    bail!("{shown} stay with {}: {why}; run it again", self.from)
                }
                MoveEnd::Behind(why) => bail!(
                    "{shown} go to {}, which could not be told: {why}; run `mainstay data slots`",
                    self.to
                ),
            }
        }
        Ok(Exit::Well)
    }

    fn chosen(&self, store: &Store, from: usize) -> anyhow::Result<Vec<Slot>> {
        let map = store.slot_map()?;
        let here = map[from].1.slots.iter().filter(|slot| slot.state.is_here());
        let here: Vec<Slot> = here.map(|slot| slot.slot).collect();
        let Some(text) = &self.slots else {
            return Ok(here.into_iter().take(self.count.unwrap_or(usize::MAX)).collect());
        };
        let asked = parse(text)?;
        for slot in &asked {
            let of = |(_, info): &&(String, ShardInfo)| {
                info.slots.iter().any(|at| at.slot == *slot && at.state.is_here())
            };
            let owner = map.iter().find(of).map_or("no shard", |(name, _)| name);
            ensure!(here.contains(slot), "{slot} is with {owner}, not with {}", self.from);
        }
        Ok(asked)
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Slot>> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok().filter(|slot| *slot < SLOTS);
        number.with_context(|| format!("`{text}` is no slot: they are 0 to {}", SLOTS - 1))
    };
    let mut slots = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last, "`{part}` goes backwards");
        slots.extend((first..=last).map(Slot));
    }
    slots.sort_unstable();
    slots.dedup();
    Ok(slots)
}

/// `0-511, 600`.
fn ranges(slots: &[Slot]) -> String {
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == slot.0 => *last = slot.0,
            _ => parts.push((slot.0, slot.0)),
        }
    }
    let shown = parts.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
