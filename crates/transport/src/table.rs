/// Names one open socket or pipe of one [`Sockets`](crate::Sockets).
///
/// Never means another one later: using a token after its `close` finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// The two highest indexes stand for the waker and the timer.
const INDEX_MAX: u32 = u32::MAX - 2;

impl Token {
    pub(crate) const WAKER: mio::Token = mio::Token(usize::MAX);
    pub(crate) const TIMER: mio::Token = mio::Token(usize::MAX - 1);

    /// Its place among all of its [`Sockets`](crate::Sockets): small, and another's after a close.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    pub(crate) fn to_mio(self) -> mio::Token {
        const { assert!(usize::BITS == 64, "tokens carry 64 bits") };
        mio::Token((self.generation as usize) << 32 | self.index as usize)
    }

    pub(crate) fn from_mio(token: mio::Token) -> Self {
        Token { index: token.0 as u32, generation: (token.0 >> 32) as u32 }
    }
}

/// Sockets by token: positions are reused, tokens are not.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Table { entries: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The token that the next [`insert`](Self::insert) will give.
    pub(crate) fn next_token(&self) -> Token {
        match self.free.last() {
            Some(&index) => Token { index, generation: self.entries[index as usize].generation },
            None => Token { index: self.entries.len() as u32, generation: 0 },
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> Token {
        let token = self.next_token();
        if self.free.pop().is_none() {
            assert!(token.index < INDEX_MAX, "table is full");
            self.entries.push(Entry { generation: 0, value: None });
        }
        self.entries[token.index as usize].value = Some(value);
        self.len += 1;
        token
    }

    pub(crate) fn get(&self, token: Token) -> Option<&T> {
        let entry = self.entries.get(token.index as usize)?;
        if entry.generation == token.generation { entry.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation == token.generation { entry.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        let value = entry.value.take()?;
        self.len -= 1;
        // A position whose generations are used up is not used again.
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            self.free.push(token.index);
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("a");
        assert_eq!(table.remove(first), Some("a"));
        let second = table.insert("b");
        assert_ne!(first, second);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"b"));
        assert_eq!(Token::from_mio(second.to_mio()), second);
        assert_eq!(table.len(), 1);
    }
}
