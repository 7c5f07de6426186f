//! Opens a set: makes its shards if they are new, finds out who has what, and ends moves that were
//! cut off after their commit point.

use super::map::Map;
use super::{Sharded, describe};
use crate::error::{Error, OpenError};
use crate::slots::{SLOTS, ShardInfo, Slot, SlotAsk, SlotState};
use crate::store::Store;

pub(super) fn open(members: Vec<(String, Store)>) -> Result<Sharded, OpenError> {
    let names: Vec<String> = members.iter().map(|(name, _)| name.clone()).collect();
    if names.is_empty() || (1..names.len()).any(|at| names[..at].contains(&names[at])) {
        return Err(wrong("each needs a name of its own, and there must be one at least"));
    }
    let members: Vec<_> =
        members.into_iter().map(|(name, store)| (name, store.into_shard())).collect();
    let infos = describe_all(&members)?;
    let plan = plan(&names, &infos)?;
    for ((name, store), info) in members.iter().zip(&infos) {
        if info.shard.is_none() {
            let slots = share(&plan, name);
            let ask = SlotAsk::Found { name: name.clone(), plan: plan.clone(), slots };
            store.slots(ask).wait().map_err(failed(name))?;
        }
    }
    let mut map = Map::new(names);
    let mut infos = describe_all(&members)?;
    if finish(&members, &infos)? {
        infos = describe_all(&members)?;
    }
    for (shard, info) in infos.iter().enumerate() {
        map.learn_shard(shard, info);
    }
    if let Some(slot) = map.missing() {
        let told = infos
            .iter()
            .flat_map(|info| &info.slots)
            .find(|at| at.slot == slot && matches!(at.state, SlotState::Gone | SlotState::Cleaned));
        let shard = told.map(|at| at.peer.clone()).or_else(|| {
            let of_plan = |name: &&String| share(&plan, name).contains(&slot);
            plan.iter().find(of_plan).cloned()
        });
        let shard = shard.unwrap_or_default();
        return Err(wrong(&format!("{slot} is with shard {shard:?}, which is not among them")));
    }
    map.begin();
    Ok(Sharded::new(members, map))
}

fn wrong(reason: &str) -> OpenError {
    OpenError::Shards(reason.to_owned())
}

fn failed(name: &str) -> impl FnOnce(Error) -> OpenError + '_ {
    move |error| match error {
        // It was there a moment ago, and is away like one that cannot be opened.
        Error::Unavailable(reason) => OpenError::Away { server: format!("shard {name:?}"), reason },
        error => OpenError::Shards(format!("shard {name:?}: {error}")),
    }
}

fn describe_all(members: &[(String, Store)]) -> Result<Vec<ShardInfo>, OpenError> {
    members.iter().map(|(name, store)| describe(store).wait().map_err(failed(name))).collect()
}

/// The shards of which the set is, or was, founded: each began with its share of the slots.
fn plan(names: &[String], infos: &[ShardInfo]) -> Result<Vec<String>, OpenError> {
    for (name, info) in names.iter().zip(infos) {
        if let Some((known, _)) = info.shard.as_ref().filter(|(known, _)| known != name) {
            return Err(wrong(&format!("the one named {name:?} is shard {known:?} of a set")));
        }
    }
    let mut plans = infos.iter().filter_map(|info| info.shard.as_ref()).map(|(_, plan)| plan);
    let full: Vec<&String> = names
        .iter()
        .zip(infos)
        .filter(|(_, i)| i.shard.is_none() && !i.is_empty)
        .map(|(n, _)| n)
        .collect();
    match (plans.next(), full.as_slice()) {
        (Some(plan), []) if plans.all(|other| other == plan) => Ok(plan.clone()),
        (Some(_), []) => Err(wrong("they are shards of different sets")),
        (Some(_), [name, ..]) => {
            Err(wrong(&format!("{name:?} holds something and is in no set, the others are in one")))
        }
        (None, []) => Ok(names.to_vec()),
        // A store that was alone has everything, until slots are moved.
        (None, [name]) => Ok(vec![(*name).clone()]),
        (None, [one, other, ..]) => Err(wrong(&format!(
            "{one:?} and {other:?} both hold something and are in no set: begin with one of them"
        ))),
    }
}

/// What a shard begins with: as much as each other of the plan, in their order.
fn share(plan: &[String], name: &str) -> Vec<Slot> {
    let Some(at) = plan.iter().position(|known| known == name) else { return Vec::new() };
    let of = |slot: u16| usize::from(slot) * plan.len() / usize::from(SLOTS);
    (0..SLOTS).filter(|slot| of(*slot) == at).map(Slot).collect()
}

/// Has slots served that were given up and not yet taken over.
fn finish(members: &[(String, Store)], infos: &[ShardInfo]) -> Result<bool, OpenError> {
    let mut any = false;
    for gone in infos.iter().flat_map(|info| &info.slots) {
        // A move that would bring it back may have cleared it meanwhile.
        if !matches!(gone.state, SlotState::Gone | SlotState::Cleaned) {
            continue;
        }
        let Some(to) = members.iter().position(|(name, _)| *name == gone.peer) else { continue };
        let arrives = infos[to].slots.iter().any(|at| {
            at.slot == gone.slot && at.state == SlotState::Arriving && at.token == gone.token
        });
        if arrives {
            let slots = vec![(gone.slot, gone.version, gone.offset)];
            let ask = SlotAsk::Arrive { slots, token: gone.token };
            let (name, store) = &members[to];
            store.slots(ask).wait().map_err(failed(name))?;
            any = true;
        }
    }
    Ok(any)
}
