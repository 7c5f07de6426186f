//! Nodes, owners and documents.

use super::landing::not_a_target;
use super::raw::IMPORT;
use super::rows::{EntityRow, EntityView, alive_key, dead_key};
use super::slots::{SHARD, generation_of};
use super::{at_most, check_generation, check_never_made, generation, index, made_row, put_made};
use crate::error::Error;
use crate::index::INDEX_SHEET;
use crate::options::Mutant;
use crate::row;
use crate::tables::{Stage, Table};
use crate::types::{
    Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Owner, Patch, Pulse, Save,
};

pub(crate) fn beat(s: &mut Stage<'_>, incarnation: Incarnation) -> Result<Pulse, Error> {
    if s.row::<u64>(Table::Meta, IMPORT)?.is_some() {
        let reason = "an import into it has not ended: run the import again";
        return Err(Error::Stopped(reason.to_owned()));
    }
    if !s.is_sharded() && s.row::<u64>(Table::Meta, SHARD)?.is_some() {
        let reason = "it is one shard of a set: name all of them in the cluster file";
        return Err(Error::Stopped(reason.to_owned()));
    }
    not_a_target(s)?;
    let beat = match alive(s, incarnation) {
        Ok(beat) => beat + 1,
        Err(Error::UnknownNode(_)) => 1,
        Err(error) => return Err(error),
    };
    let generation = generation(s)?;
    s.put(Table::Node, &alive_key(incarnation), &beat);
    Ok(Pulse { generation, beat })
}

pub(crate) fn nodes(s: &mut Stage<'_>) -> Result<Vec<NodeBeat>, Error> {
    let (mut nodes, max) = (Vec::new(), s.limits.scan_max);
    s.scan(Table::Node, &[], &mut |key, bytes| {
        let [0, incarnation @ ..] = key else { return Ok(false) };
        let Ok(incarnation) = incarnation.try_into().map(u64::from_be_bytes) else {
            return Err(Error::Corrupt { table: "node", key: crate::row::hex(key) });
        };
        let beat = crate::row::decode(Table::Node, key, bytes)?;
        nodes.push(NodeBeat { incarnation: Incarnation(incarnation), alive: true, beat });
        Ok(nodes.len() < max)
    })?;
    Ok(nodes)
}

pub(crate) fn node(s: &mut Stage<'_>, of: Incarnation) -> Result<Option<NodeBeat>, Error> {
    if let Some(beat) = s.row(Table::Node, &alive_key(of))? {
        return Ok(Some(NodeBeat { incarnation: of, alive: true, beat }));
    }
    let dead = s.row(Table::Node, &dead_key(of))?;
    Ok(dead.map(|beat| NodeBeat { incarnation: of, alive: false, beat }))
}

pub(crate) fn mark_dead(s: &mut Stage<'_>, of: Incarnation, seen: u64) -> Result<(), Error> {
    match alive(s, of) {
        Ok(beat) if beat == seen => {
            s.remove(Table::Node, &alive_key(of));
            s.put(Table::Node, &dead_key(of), &beat);
            Ok(())
        }
        Ok(current) => Err(Error::BeatMoved { incarnation: of, current }),
        Err(Error::Dead(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The beat of a node that must be alive.
fn alive(s: &Stage<'_>, incarnation: Incarnation) -> Result<u64, Error> {
    if let Some(beat) = s.row(Table::Node, &alive_key(incarnation))? {
        Ok(beat)
    } else if is_dead(s, incarnation)? {
        Err(Error::Dead(incarnation))
    } else {
        Err(Error::UnknownNode(incarnation))
    }
}

fn is_dead(s: &Stage<'_>, incarnation: Incarnation) -> Result<bool, Error> {
    Ok(s.row::<u64>(Table::Node, &dead_key(incarnation))?.is_some())
}

pub(crate) fn activate(s: &mut Stage<'_>, ask: &Activate) -> Result<Activated, Error> {
    s.expect([(Table::Entity, ask.key.0.to_be_bytes())]);
    let generation = generation_of(s, ask.key)?;
    if !s.is_sharded() {
        check_generation(s, ask.generation)?;
    }
    alive(s, ask.incarnation)?;
    let (epoch, version, documents) = match entity(s, ask.key)? {
        None => (0, 0, Default::default()),
        Some(EntityRow { owner, version, documents }) => {
            let own = owner.incarnation == ask.incarnation && ask.reclaim == Some(owner.epoch);
            let given = s.limits.mutant == Some(Mutant::OwnedGiven);
            if !owner.released && !own && !given && !is_dead(s, owner.incarnation)? {
                return Err(Error::Owned { key: ask.key, owner });
            }
            (owner.epoch, version, documents)
        }
    };
    let owner = Owner { epoch: epoch + 1, incarnation: ask.incarnation, released: false };
    let row = EntityRow { owner, version, documents };
    put_made(s, Table::Entity, ask.key, &row, epoch == 0);
    let claim =
        Claim { key: ask.key, generation, epoch: owner.epoch, incarnation: ask.incarnation };
    Ok(Activated { claim, version, documents: row.documents })
}

/// What became of each of several activations.
pub(crate) type Activations = Vec<Result<Activated, Error>>;

pub(crate) fn activate_many(s: &mut Stage<'_>, asks: &[Activate]) -> Result<Activations, Error> {
    at_most("entities to activate", asks.len(), s.limits.activate_max)?;
    let mut answers = Vec::with_capacity(asks.len());
    for ask in asks {
        let answer = activate(s, ask);
        // What is wrong with the storage is no answer about one entity.
        if let Err(error @ (Error::Stopped(_) | Error::Unknown(_))) = answer {
            return Err(error);
        }
        answers.push(answer);
    }
    Ok(answers)
}

pub(crate) fn release(s: &mut Stage<'_>, claim: &Claim, version: u64) -> Result<(), Error> {
    let bytes = claimed(s, claim, |mut row| {
        check_version(s, claim.key, version, row.version)?;
        row.owner.released = true;
        Ok(row.encode(claim.key))
    })?;
    put_entity(s, claim.key, bytes);
    Ok(())
}

pub(crate) fn save(s: &mut Stage<'_>, save: &Save) -> Result<u64, Error> {
    let Save { claim, version, patch } = save;
    let sheet = patch.get(INDEX_SHEET);
    let (is_at, bytes, was) = claimed(s, claim, |row| {
        check_version(s, claim.key, *version, row.version)?;
        let was = sheet.and_then(|_| row.documents.get(INDEX_SHEET).map(|sheet| sheet.to_vec()));
        let row = change(s, row, patch)?;
        Ok((row.version, row.encode(claim.key), was))
    })?;
    if let Some(is) = sheet {
        index::of_entity(s, claim.key, was.as_deref(), is.as_deref())?;
    }
    put_entity(s, claim.key, bytes);
    Ok(is_at)
}

pub(crate) fn load(s: &mut Stage<'_>, key: Key) -> Result<Option<Entity>, Error> {
    let row = entity(s, key)?;
    Ok(row.map(|EntityRow { owner, version, documents }| Entity { owner, version, documents }))
}

/// What `then` makes of the row of an entity of which `claim` must hold. It must read nothing else.
pub(super) fn claimed<T>(
    s: &Stage<'_>,
    claim: &Claim,
    then: impl FnOnce(EntityView<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    s.expect([(Table::Entity, claim.key.0.to_be_bytes())]);
    let current = generation_of(s, claim.key)?;
    if claim.generation != current {
        return Err(Error::Generation { current });
    }
    let id = claim.key.0.to_be_bytes();
    let (mut then, mut made) = (Some(then), None);
    s.see(Table::Entity, &id, |stored| {
        let Some(stored) = stored else { return Ok(()) };
        let row = row::decode_with(Table::Entity, &id, stored, EntityView::take)?;
        let holds = row.owner.epoch == claim.epoch
            && row.owner.incarnation == claim.incarnation
            && !row.owner.released;
        if !holds && s.limits.mutant != Some(Mutant::AnyEpoch) {
            return Err(Error::Fenced { key: claim.key, owner: Some(row.owner) });
        }
        made = then.take().map(|then| then(row)).transpose()?;
        Ok(())
    })?;
    if made.is_none() {
        check_never_made(s, Table::Entity, claim.key)?;
    }
    made.ok_or(Error::Fenced { key: claim.key, owner: None })
}

fn check_version(s: &Stage<'_>, key: Key, named: u64, current: u64) -> Result<(), Error> {
    let any = s.limits.mutant == Some(Mutant::AnyVersion);
    if named == current || any { Ok(()) } else { Err(Error::Conflict { key, current }) }
}

/// The row with its documents changed as `patch` says, and one version higher.
fn change<'a>(
    s: &Stage<'_>,
    mut row: EntityView<'a>,
    patch: &'a Patch,
) -> Result<EntityView<'a>, Error> {
    for (name, document) in patch {
        if name.is_empty() {
            return Err(Error::Malformed("a sub-document has no name"));
        }
        at_most("bytes of a sub-document's name", name.len(), s.limits.name_bytes_max)?;
        match document {
            Some(document) => row.documents.insert(name, document),
            None => row.documents.remove(name.as_str()),
        };
    }
    at_most("sub-documents of an entity", row.documents.len(), s.limits.documents_max)?;
    let bytes = row.documents.iter().map(|(name, document)| name.len() + document.len()).sum();
    at_most("bytes of an entity's documents", bytes, s.limits.entity_bytes_max)?;
    row.version += 1;
    Ok(row)
}

fn entity(s: &Stage<'_>, key: Key) -> Result<Option<EntityRow>, Error> {
    made_row(s, Table::Entity, key)
}

fn put_entity(s: &mut Stage<'_>, key: Key, row: Vec<u8>) {
    s.put_raw(Table::Entity, &key.0.to_be_bytes(), row);
}
