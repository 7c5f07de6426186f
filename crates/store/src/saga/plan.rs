//! What a saga is to do, as data.

use crate::ledger::{Currency, Item, ItemId, LedgerOp, Message};
use crate::record::RecordId;
use crate::row::{Damaged, Reader, Row, Writer};
use crate::types::Key;

/// The steps of a saga, in their order.
///
/// They are done one after the other. If one is refused, those before it are undone, the last first.
/// Steps without a compensation come last: the first of them decides, and those after it are tried
/// until they are done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SagaPlan {
    /// Why, for the audit.
    pub note: String,
    /// The steps; at most 32.
    pub steps: Vec<SagaStep>,
}

/// One step: one transaction in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaStep {
    /// Tells it from the others, and people what it is.
    pub name: String,
    /// The store that it is done in; empty: the default one.
    pub store: String,
    /// What it does.
    pub act: SagaWork,
    /// What undoes it. `None`: it is never undone. Empty: there is nothing to undo.
    pub undo: Option<SagaWork>,
}

/// What is done together, once. All that it names must be in one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SagaWork {
    /// Changes of the ledger.
    pub ops: Vec<LedgerOp>,
    /// Changes of records.
    pub amends: Vec<Amend>,
    /// What is told once it is done.
    pub messages: Vec<Message>,
}

/// A change of a record, by the name under which it is known; see [`Amends`](crate::Amends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amend {
    /// The record.
    pub record: RecordId,
    /// The name of the change.
    pub by: String,
    /// What it is told.
    pub with: Vec<u8>,
}

impl SagaPlan {
    /// A saga without steps yet.
    pub fn new(note: impl Into<String>) -> Self {
        SagaPlan { note: note.into(), steps: Vec::new() }
    }

    /// Adds a step.
    #[must_use]
    pub fn step(mut self, step: SagaStep) -> Self {
        self.steps.push(step);
        self
    }

    /// Two holders exchange what they have, wherever they are: all that `one` gives is taken into
    /// transit, `other` then gives and gets at once, and `one` gets what is left. If `other` cannot,
    /// `one` has everything back.
    pub fn trade(note: impl Into<String>, one: Offer, other: Offer) -> Self {
        let back = one.receive(one.holder);
        let swap = one.receive(other.holder).and(other.send());
        let mut plan = SagaPlan::new(note)
            .step(SagaStep::new("take", one.send()).at(&one.store).undone_by(back));
        plan = plan.step(SagaStep::new("swap", swap).at(&other.store));
        let rest = other.receive(one.holder);
        if rest == SagaWork::new() {
            plan
        } else {
            plan.step(SagaStep::new("give", rest).at(&one.store))
        }
    }
}

/// What a holder gives in a [trade](SagaPlan::trade).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who gives it.
    pub holder: Key,
    /// The store that it is in; empty: the default one.
    pub store: String,
    /// Amounts.
    pub amounts: Vec<(Currency, u64)>,
    /// Items as they are now; if one is changed before it is taken, the saga is undone.
    pub items: Vec<(ItemId, Item)>,
}

impl Offer {
    /// Nothing, of the default store.
    pub fn new(holder: Key) -> Self {
        Offer { holder, store: String::new(), amounts: Vec::new(), items: Vec::new() }
    }

    /// It lies in that store.
    #[must_use]
    pub fn at(mut self, store: impl Into<String>) -> Self {
        self.store = store.into();
        self
    }

    /// So much of a currency more.
    #[must_use]
    pub fn amount(mut self, currency: Currency, amount: u64) -> Self {
        self.amounts.push((currency, amount));
        self
    }

    /// An item more, as it is now.
    #[must_use]
    pub fn item(mut self, id: ItemId, item: Item) -> Self {
        self.items.push((id, item));
        self
    }

    fn send(&self) -> SagaWork {
        let items = self.items.iter().map(|(id, item)| LedgerOp::SendItem {
            item: *id,
            kind: item.kind,
            holder: self.holder,
            data: item.data.clone(),
        });
        let amounts = self.amounts.iter().map(|&(currency, amount)| LedgerOp::Send {
            holder: self.holder,
            currency,
            amount,
        });
        SagaWork { ops: items.chain(amounts).collect(), ..SagaWork::default() }
    }

    fn receive(&self, by: Key) -> SagaWork {
        let turned = |op| match op {
            LedgerOp::SendItem { item, kind, data, .. } => {
                LedgerOp::ReceiveItem { item, kind, holder: by, data }
            }
            LedgerOp::Send { currency, amount, .. } => {
                LedgerOp::Receive { holder: by, currency, amount }
            }
            other => other,
        };
        SagaWork { ops: self.send().ops.into_iter().map(turned).collect(), ..SagaWork::default() }
    }
}

impl SagaStep {
    /// A step of the default store that is never undone.
    pub fn new(name: impl Into<String>, act: SagaWork) -> Self {
        SagaStep { name: name.into(), store: String::new(), act, undo: None }
    }

    /// It is done in that store.
    #[must_use]
    pub fn at(mut self, store: impl Into<String>) -> Self {
        self.store = store.into();
        self
    }

    /// What undoes it.
    #[must_use]
    pub fn undone_by(mut self, undo: SagaWork) -> Self {
        self.undo = Some(undo);
        self
    }
}

impl SagaWork {
    /// Nothing.
    pub fn new() -> Self {
        SagaWork::default()
    }

    /// A change of the ledger more.
    #[must_use]
    pub fn op(mut self, op: LedgerOp) -> Self {
        self.ops.push(op);
        self
    }

    /// Sends currency off; a later step has to receive it.
    #[must_use]
    pub fn send(self, holder: Key, currency: Currency, amount: u64) -> Self {
        self.op(LedgerOp::Send { holder, currency, amount })
    }

    /// Takes currency in that an earlier step has sent.
    #[must_use]
    pub fn receive(self, holder: Key, currency: Currency, amount: u64) -> Self {
        self.op(LedgerOp::Receive { holder, currency, amount })
    }

    /// A change of a record more.
    #[must_use]
    pub fn amend(mut self, amend: Amend) -> Self {
        self.amends.push(amend);
        self
    }

    /// Says something to `topic` of the outbox once it is done.
    #[must_use]
    pub fn tell(mut self, topic: impl Into<String>, body: Vec<u8>) -> Self {
        self.messages.push(Message { topic: topic.into(), body });
        self
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: SagaWork) -> Self {
        self.ops.extend(other.ops);
        self.amends.extend(other.amends);
        self.messages.extend(other.messages);
        self
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.amends.is_empty() && self.messages.is_empty()
    }
}

impl Row for SagaWork {
    fn put(&self, w: &mut Writer) {
        w.count(self.ops.len());
        self.ops.iter().for_each(|op| w.op(op));
        w.count(self.amends.len());
        for Amend { record, by, with } in &self.amends {
            w.u32(record.kind);
            w.blob(&record.key);
            w.text(by);
            w.blob(with);
        }
        w.count(self.messages.len());
        for Message { topic, body } in &self.messages {
            w.text(topic);
            w.blob(body);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let ops = (0..r.count()?).map(|_| r.op()).collect::<Result<_, _>>()?;
        let amend = |r: &mut Reader<'_>| {
            let record = RecordId { kind: r.u32()?, key: r.blob()? };
            Ok(Amend { record, by: r.text()?, with: r.blob()? })
        };
        let amends = (0..r.count()?).map(|_| amend(r)).collect::<Result<_, _>>()?;
        let message = |r: &mut Reader<'_>| Ok(Message { topic: r.text()?, body: r.blob()? });
        let messages = (0..r.count()?).map(|_| message(r)).collect::<Result<_, _>>()?;
        Ok(SagaWork { ops, amends, messages })
    }
}

impl Row for SagaPlan {
    fn put(&self, w: &mut Writer) {
        w.text(&self.note);
        w.count(self.steps.len());
        for SagaStep { name, store, act, undo } in &self.steps {
            w.text(name);
            w.text(store);
            act.put(w);
            w.u8(undo.is_some().into());
            if let Some(undo) = undo {
                undo.put(w);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let note = r.text()?;
        let step = |r: &mut Reader<'_>| {
            let (name, store, act) = (r.text()?, r.text()?, SagaWork::take(r)?);
            let undo = if r.flag()? { Some(SagaWork::take(r)?) } else { None };
            Ok(SagaStep { name, store, act, undo })
        };
        let steps = (0..r.count()?).map(|_| step(r)).collect::<Result<_, _>>()?;
        Ok(SagaPlan { note, steps })
    }
}
