//! How the types of the standard library and the ids travel.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use env::WallTime;

use super::decoder::range;
use super::{
    DecodeError, Decoder, Message, Problem, one_by_one, put_array, put_binary, put_bool, put_f32,
    put_f64, put_int, put_map, put_nil, put_text, put_uint,
};
use crate::id::{AccountId, EntityId, Incarnation, KindId, MethodId, SessionId};
use crate::schema::{SchemaBuilder, Shape};

/// Binary data. Travels as MessagePack binary, where a `Vec<u8>` travels as a list of numbers.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.escape_ascii())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Bytes(bytes.to_vec())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What has a length that `len = ..` can check.
pub trait Length {
    /// Characters of a text, items of a list or map, bytes of a binary; of an option that of its
    /// value, 0 for none.
    fn length(&self) -> usize;
}

/// What `finite` can check.
pub trait Finite {
    /// Whether it is neither NaN nor an infinity.
    fn is_finite(&self) -> bool;
}

impl Finite for f32 {
    fn is_finite(&self) -> bool {
        f32::is_finite(*self)
    }
}

impl Finite for f64 {
    fn is_finite(&self) -> bool {
        f64::is_finite(*self)
    }
}

impl Length for String {
    fn length(&self) -> usize {
        self.chars().count()
    }
}

impl Length for Bytes {
    fn length(&self) -> usize {
        self.0.len()
    }
}

impl<T> Length for Vec<T> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<K, V> Length for BTreeMap<K, V> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<T> Length for BTreeSet<T> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<T: Length> Length for Option<T> {
    fn length(&self) -> usize {
        self.as_ref().map_or(0, Length::length)
    }
}

macro_rules! integers {
    ($($type:ident $shape:ident $put:ident $take:ident $wide:ident $allowed:literal;)*) => {$(
        impl Message for $type {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                $put(out, $wide::from(*self));
            }

            #[inline]
            fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                let wide = d.$take()?;
                $type::try_from(wide).map_err(|_| range(wide, $allowed))
            }

            fn shape(_: &mut SchemaBuilder) -> Shape {
                Shape::$shape
            }
        }
    )*};
}

impl Message for u8 {
    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        put_uint(out, u64::from(*self));
    }

    #[inline]
    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let wide = d.uint()?;
        u8::try_from(wide).map_err(|_| range(wide, "0..=255"))
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::U8
    }

    /// Numbers below 128 stand as they are.
    fn encode_items(items: &[u8], out: &mut Vec<u8>) {
        if items.is_ascii() {
            return out.extend_from_slice(items);
        }
        out.reserve(2 * items.len());
        for item in items {
            item.encode(out);
        }
    }

    fn decode_items(d: &mut Decoder<'_>, len: usize) -> Result<Vec<u8>, DecodeError> {
        match d.small_uints(len) {
            Some(items) => Ok(items.to_vec()),
            None => one_by_one(d, len),
        }
    }
}

integers! {
    u16 U16 put_uint uint u64 "0..=65535";
    u32 U32 put_uint uint u64 "0..=4294967295";
    u64 U64 put_uint uint u64 "0..=18446744073709551615";
    i8 I8 put_int int i64 "-128..=127";
    i16 I16 put_int int i64 "-32768..=32767";
    i32 I32 put_int int i64 "-2147483648..=2147483647";
    i64 I64 put_int int i64 "-9223372036854775808..=9223372036854775807";
}

macro_rules! numbered {
    ($($type:ident($inner:ident) $shape:ident;)*) => {$(
        impl Message for $type {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            #[inline]
            fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                $inner::decode(d).map($type)
            }

            fn shape(_: &mut SchemaBuilder) -> Shape {
                Shape::$shape
            }
        }
    )*};
}

numbered! {
    KindId(u32) KindId;
    MethodId(u32) MethodId;
    Incarnation(u64) Incarnation;
    AccountId(u64) AccountId;
    WallTime(u64) WallTime;
}

impl Message for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bool(out, *self);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        d.bool()
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::Bool
    }
}

impl Message for f32 {
    fn encode(&self, out: &mut Vec<u8>) {
        put_f32(out, *self);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        d.f32()
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::F32
    }
}

impl Message for f64 {
    fn encode(&self, out: &mut Vec<u8>) {
        put_f64(out, *self);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        d.f64()
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::F64
    }
}

impl Message for () {
    fn encode(&self, out: &mut Vec<u8>) {
        put_nil(out);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        d.nil()
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::Unit
    }
}

macro_rules! texts {
    ($($type:ty),*) => {$(
        impl Message for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                put_text(out, self);
            }

            fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                let text = d.text()?;
                d.charge(text.len())?;
                Ok(text.to_owned().into())
            }

            fn shape(_: &mut SchemaBuilder) -> Shape {
                Shape::Text
            }
        }
    )*};
}

texts!(String, Box<str>, Rc<str>, Arc<str>, Cow<'static, str>);

impl Message for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        put_binary(out, &self.0);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let bytes = d.binary()?;
        d.charge(bytes.len())?;
        Ok(Bytes(bytes.to_vec()))
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::Bytes
    }
}

impl Message for SessionId {
    fn encode(&self, out: &mut Vec<u8>) {
        put_binary(out, &self.0);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let bytes = d.binary()?;
        let id = bytes.try_into();
        id.map(SessionId).map_err(|_| Problem::Count { expected: 16, found: bytes.len() }.into())
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::SessionId
    }
}

/// `[kind, home, key]`.
impl Message for EntityId {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, 3);
        self.kind.encode(out);
        self.home.encode(out);
        self.key.encode(out);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        exact(d, 3)?;
        let id = EntityId {
            kind: Message::decode(d).map_err(|error| error.within("kind"))?,
            home: Message::decode(d).map_err(|error| error.within("home"))?,
            key: Message::decode(d).map_err(|error| error.within("key"))?,
        };
        d.leave();
        Ok(id)
    }

    fn shape(_: &mut SchemaBuilder) -> Shape {
        Shape::EntityId
    }
}

impl<T: Message> Message for Option<T> {
    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            None => put_nil(out),
            Some(value) => value.encode(out),
        }
    }

    #[inline]
    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        if d.take_nil() { Ok(None) } else { T::decode(d).map(Some) }
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        Shape::Option(Box::new(T::shape(s)))
    }
}

macro_rules! pointers {
    ($($pointer:ident),*) => {$(
        impl<T: Message> Message for $pointer<T> {
            fn encode(&self, out: &mut Vec<u8>) {
                T::encode(self, out);
            }

            fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                d.charge(size_of::<T>())?;
                d.enter()?;
                let value = T::decode(d)?;
                d.leave();
                Ok($pointer::new(value))
            }

            fn shape(s: &mut SchemaBuilder) -> Shape {
                T::shape(s)
            }
        }
    )*};
}

pointers!(Box, Rc, Arc);

impl<T: Message> Message for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, self.len());
        T::encode_items(self, out);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let len = d.array()?;
        d.charge(len.saturating_mul(size_of::<T>()))?;
        let items = T::decode_items(d, len)?;
        d.leave();
        Ok(items)
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        Shape::List(Box::new(T::shape(s)))
    }
}

impl<T: Message, const N: usize> Message for [T; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, N);
        for item in self {
            item.encode(out);
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        exact(d, N)?;
        let mut items = [const { None::<T> }; N];
        for (index, item) in items.iter_mut().enumerate() {
            *item = Some(T::decode(d).map_err(|error| error.at(index))?);
        }
        d.leave();
        Ok(items.map(|item| item.expect("all were filled")))
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        Shape::Array(Box::new(T::shape(s)), N)
    }
}

/// Keys ascend, so that equal maps have equal bytes. Any order is read.
impl<K: Message + Ord, V: Message> Message for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_map(out, self.len());
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let len = d.map()?;
        d.charge(len.saturating_mul(node_bytes::<K>() + size_of::<V>()))?;
        let mut map = BTreeMap::new();
        for index in 0..len {
            let key = K::decode(d).map_err(|error| error.at(index).within("key"))?;
            let value = V::decode(d).map_err(|error| error.at(index))?;
            if map.insert(key, value).is_some() {
                return Err(DecodeError::new(Problem::Duplicate).at(index));
            }
        }
        d.leave();
        Ok(map)
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        let key = K::shape(s);
        Shape::Map(Box::new(key), Box::new(V::shape(s)))
    }
}

/// An array whose items ascend. Any order is read.
impl<T: Message + Ord> Message for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, self.len());
        for item in self {
            item.encode(out);
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let len = d.array()?;
        d.charge(len.saturating_mul(node_bytes::<T>()))?;
        let mut set = BTreeSet::new();
        for index in 0..len {
            if !set.insert(T::decode(d).map_err(|error| error.at(index))?) {
                return Err(DecodeError::new(Problem::Duplicate).at(index));
            }
        }
        d.leave();
        Ok(set)
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        Shape::Set(Box::new(T::shape(s)))
    }
}

/// What one key of a B-tree takes at most, its share of half-full nodes included.
const fn node_bytes<T>() -> usize {
    2 * size_of::<T>() + 16
}

/// Takes the head of an array of exactly `expected` items.
fn exact(d: &mut Decoder<'_>, expected: usize) -> Result<(), DecodeError> {
    match d.array()? {
        found if found == expected => Ok(()),
        found => Err(Problem::Count { expected, found }.into()),
    }
}

macro_rules! tuples {
    ($($count:literal: $($name:ident $at:tt),*;)*) => {$(
        impl<$($name: Message),*> Message for ($($name,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                put_array(out, $count);
                $(self.$at.encode(out);)*
            }

            fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                exact(d, $count)?;
                let value = ($($name::decode(d).map_err(|error| error.at($at))?,)*);
                d.leave();
                Ok(value)
            }

            fn shape(s: &mut SchemaBuilder) -> Shape {
                Shape::Tuple(vec![$($name::shape(s)),*])
            }
        }
    )*};
}

tuples! {
    1: A 0;
    2: A 0, B 1;
    3: A 0, B 1, C 2;
    4: A 0, B 1, C 2, D 3;
    5: A 0, B 1, C 2, D 3, E 4;
    6: A 0, B 1, C 2, D 3, E 4, F 5;
    7: A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
}
