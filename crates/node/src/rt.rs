//! What generated code uses. Not for games: names here follow the macros.

pub use crate::call::{Call, CallEnd, ClientCall, wrong_reply};
pub use crate::component::Component;
pub use crate::cx::{Caller, Cx, GroupSlot, Link, Outside, Peer, PushMode, Ref, Reporter, This};
pub use crate::data::{
    BadDocument, Document, DocumentError, FieldReader, IndexValue, OWN, Query, Record, Sheets,
    describe_document, read_document,
};
pub use crate::entity::{
    Callers, Class, Entity, Hook, Hooks, KindInfo, Latest, MethodInfo, OnPanic, Rate, method_table,
};
pub use crate::error::{CallError, Failure};
pub use crate::guard::{guard, guarded};
pub use crate::module::*;
pub use crate::pattern::{Carry, Pattern, Route, carries};
pub use crate::push::*;
pub use crate::step::{Step, Turn};
pub use crate::timer::{Missed, Schedule, TimerId, Times};
pub use proto::codec;
pub use proto::frame::{CloseCode, Status};
pub use proto::schema;
pub use proto::{
    DecodeError, Decoder, EntityId, KindId, Message, MethodId, Scope, decode, name_hash,
};
