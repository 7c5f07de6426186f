//! How far a saga is, as its record says.

use super::SagaEnd;
use super::plan::SagaPlan;
use crate::row::{Damaged, Reader, Row, Writer};

/// Version of the record's body.
const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// SHA-256 of the plan, which tells another saga under the same key.
    pub hash: [u8; 32],
    /// Who drives it: random.
    pub driver: u64,
    /// Its place among those under way.
    pub place: u32,
    /// How often the present step was refused and is to be tried again.
    pub tries: u32,
    pub began_ms: u64,
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// So many steps are done.
    Forward(u32, SagaPlan),
    /// A step was refused, and why; so many are still to be undone.
    Back(u32, SagaPlan, String, String),
    Ended(SagaEnd, u64),
}

impl State {
    pub fn decode(bytes: &[u8]) -> Option<State> {
        let mut r = Reader::new(bytes);
        let state = State::take(&mut r).ok()?;
        r.is_empty().then_some(state)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.put(&mut w);
        w.into_bytes()
    }
}

/// What tells two plans apart.
pub(super) fn hash_of(plan: &SagaPlan) -> [u8; 32] {
    let mut w = Writer::new();
    plan.put(&mut w);
    let digest = ring::digest::digest(&ring::digest::SHA256, w.bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Row for State {
    fn put(&self, w: &mut Writer) {
        w.u8(VERSION);
        w.raw(&self.hash);
        w.u64(self.driver);
        w.u32(self.place);
        w.u32(self.tries);
        w.u64(self.began_ms);
        match &self.phase {
            Phase::Forward(done, plan) => {
                w.u8(0);
                w.u32(*done);
                plan.put(w);
            }
            Phase::Back(left, plan, step, why) => {
                w.u8(1);
                w.u32(*left);
                plan.put(w);
                w.text(step);
                w.text(why);
            }
            Phase::Ended(SagaEnd::Done, at_ms) => {
                w.u8(2);
                w.u64(*at_ms);
            }
            Phase::Ended(SagaEnd::Undone { step, why }, at_ms) => {
                w.u8(3);
                w.u64(*at_ms);
                w.text(step);
                w.text(why);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        if r.u8()? != VERSION {
            return Err(Damaged);
        }
        let (hash, driver, place) = (r.hash()?, r.u64()?, r.u32()?);
        let (tries, began_ms) = (r.u32()?, r.u64()?);
        let plan_at = |r: &mut Reader<'_>| {
            let (at, plan) = (r.u32()?, SagaPlan::take(r)?);
            if at as usize <= plan.steps.len() { Ok((at, plan)) } else { Err(Damaged) }
        };
        let phase = match r.u8()? {
            0 => {
                let (done, plan) = plan_at(r)?;
                Phase::Forward(done, plan)
            }
            1 => {
                let (left, plan) = plan_at(r)?;
                Phase::Back(left, plan, r.text()?, r.text()?)
            }
            2 => Phase::Ended(SagaEnd::Done, r.u64()?),
            3 => {
                let at_ms = r.u64()?;
                Phase::Ended(SagaEnd::Undone { step: r.text()?, why: r.text()? }, at_ms)
            }
            _ => return Err(Damaged),
        };
        Ok(State { hash, driver, place, tries, began_ms, phase })
    }
}
