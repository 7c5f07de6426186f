/// Which side a decoder reads for: a server reads masked frames, a client unmasked ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads what clients send.
    Server,
    /// Reads what a server sends.
    Client,
}

/// Why a connection is closed by us (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CloseCode {
    #[error("normal closure")]
    Normal = 1000,
    #[error("going away")]
    GoingAway = 1001,
    #[error("the frame breaks the protocol")]
    Protocol = 1002,
    #[error("only binary messages are taken")]
    Unsupported = 1003,
    #[error("the reason is not UTF-8")]
    Invalid = 1007,
    #[error("refused by policy")]
    Policy = 1008,
    #[error("the message is too big")]
    TooBig = 1009,
    #[error("try again later")]
    TryLater = 1013,
}

/// A part of what came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// The next bytes of the stream, unmasked. Never empty.
    Data(&'b mut [u8]),
    /// Answer with [`put_pong`].
    Ping(Control),
    /// A sign of life.
    Pong,
    /// The peer closes: answer with [`put_close`] and its code, then close. Nothing follows.
    Close(Option<u16>),
}

/// The payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    len: u8,
    bytes: [u8; CONTROL_BYTES_MAX],
}

const CONTROL_BYTES_MAX: usize = 125;
const HEADER_BYTES_MAX: usize = 14;

/// The header of a masked frame with a length of one byte.
const SHORT_HEADER_BYTES: usize = 6;

/// The longest header of a masked frame, in bytes.
pub const MASK_HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX;

/// Reads frames from any cut of the byte stream.
///
/// Holds 40 bytes and no payload; only a control frame that arrives in pieces is kept, 125 bytes
/// at most.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    message_bytes_max: u32,
    /// What has arrived of the header that is being read.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Inside the payload of a frame (else before or in a header).
    in_payload: bool,
    opcode: Opcode,
    /// The frame ends its message.
    last: bool,
    /// A message has begun and its last frame has not.
    in_message: bool,
    closed: bool,
    mask: [u8; 4],
    /// How far the mask has turned.
    turn: u8,
    /// Payload bytes of the frame still to come.
    remaining: u32,
    /// Payload bytes of the message announced so far.
    message_bytes: u32,
    control: Option<Box<Control>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Data,
    Close,
    Ping,
    Pong,
}

impl Decoder {
    /// Reads messages of at most `message_bytes_max` bytes, over all their fragments.
    pub fn new(role: Role, message_bytes_max: u32) -> Self {
        Decoder {
            role,
            message_bytes_max,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            in_payload: false,
            opcode: Opcode::Data,
            last: false,
            in_message: false,
            closed: false,
            mask: [0; 4],
            turn: 0,
            remaining: 0,
            message_bytes: 0,
            control: None,
        }
    }

    /// Takes the next piece off `input`. `None` means that all of it is used up.
    ///
    /// # Errors
    ///
    /// The code to close with: send it by [`put_close`] and read no more.
    pub fn next<'b>(&mut self, input: &mut &'b mut [u8]) -> Result<Option<Piece<'b>>, CloseCode> {
        loop {
            if self.closed {
                *input = &mut [];
                return Ok(None);
            }
            if !self.in_payload && !self.read_header(input)? {
                return Ok(None);
            }
            let len = (self.remaining as usize).min(input.len());
            if self.remaining > 0 && len == 0 {
                return Ok(None);
            }
            let (payload, rest) = std::mem::take(input).split_at_mut(len);
            *input = rest;
            if self.role == Role::Server {
                unmask(payload, self.mask, &mut self.turn);
            }
            self.remaining -= len as u32;
            let ended = self.remaining == 0;
            self.in_payload = !ended;
            if self.opcode == Opcode::Data {
                if ended {
                    self.in_message = !self.last;
                }
                if !payload.is_empty() {
                    return Ok(Some(Piece::Data(payload)));
                }
                continue;
            }
            if let Some(piece) = self.take_control(payload, ended)? {
                return Ok(Some(piece));
            }
        }
    }

    /// Takes the masked messages at the start of `input` that are whole, in one frame, and short,
    /// as most clients' are. Moves their payloads together to the start of `input`; gives how long
    /// those are, and how many bytes of `input` they took. [`next`](Self::next) goes on after them.
    pub fn take_short(&mut self, input: &mut [u8]) -> (usize, usize) {
        if self.role == Role::Client
            || self.in_payload
            || self.header_len > 0
            || self.in_message
            || self.closed
        {
            return (0, 0);
        }
        let (mut to, mut from) = (0, 0);
        while let [OP_BINARY, second, mask @ ..] = &input[from..]
            && let Some(&mask) = mask.first_chunk()
            && let len = usize::from(second & 0x7f)
            && second & 0x80 != 0
            && len < 126
            && len <= self.message_bytes_max as usize
            && input.len() - from >= SHORT_HEADER_BYTES + len
        {
            from += SHORT_HEADER_BYTES;
            input.copy_within(from..from + len, to);
            unmask(&mut input[to..to + len], mask, &mut 0);
            to += len;
            from += len;
        }
        (to, from)
    }

    /// Appends how far it has read, for [`restore`](Self::restore) in another process. `false` where it
    /// has closed or is within a control frame: nothing is appended then.
    pub fn save(&self, out: &mut Vec<u8>) -> bool {
        if self.closed || self.in_payload && self.opcode != Opcode::Data {
            return false;
        }
        let flags =
            u8::from(self.in_payload) | u8::from(self.last) << 1 | u8::from(self.in_message) << 2;
        out.extend_from_slice(&[flags, self.turn, self.header_len]);
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.mask);
        out.extend_from_slice(&self.remaining.to_le_bytes());
        out.extend_from_slice(&self.message_bytes.to_le_bytes());
        true
    }

    /// One that goes on where another stopped, by all that [`save`](Self::save) gave. `None` if it is not that.
    pub fn restore(role: Role, message_bytes_max: u32, saved: &[u8]) -> Option<Self> {
        let (&[flags, turn, header_len], rest) = saved.split_first_chunk()?;
        let (&header, rest) = rest.split_first_chunk()?;
        let (&mask, rest) = rest.split_first_chunk()?;
        let (&remaining, rest) = rest.split_first_chunk()?;
        let (&message_bytes, rest) = rest.split_first_chunk()?;
        let (remaining, message_bytes) =
            (u32::from_le_bytes(remaining), u32::from_le_bytes(message_bytes));
        let fits = flags < 8
            && turn < 4
            && usize::from(header_len) < HEADER_BYTES_MAX
            && (flags & 1 == 0 || remaining > 0)
            && remaining <= message_bytes_max
            && message_bytes <= message_bytes_max
            && rest.is_empty();
        let decoder = fits.then(|| Decoder {
            header,
            header_len,
            in_payload: flags & 1 != 0,
            last: flags & 2 != 0,
            in_message: flags & 4 != 0,
            mask,
            turn,
            remaining,
            message_bytes,
            ..Decoder::new(role, message_bytes_max)
        })?;
        let needed = decoder.header_needed().ok()?;
        (usize::from(header_len) <= needed).then_some(decoder)
    }

    /// Whether nothing of a frame has arrived, so that a pause means nothing.
    pub fn is_between_frames(&self) -> bool {
        !self.in_payload && self.header_len == 0
    }

    /// Reads the rest of a header; `false` if it is not all there.
    fn read_header(&mut self, input: &mut &mut [u8]) -> Result<bool, CloseCode> {
        loop {
            let needed = self.header_needed()?;
            let missing = needed - self.header_len as usize;
            if missing == 0 {
                break;
            }
            let len = missing.min(input.len());
            if len == 0 {
                return Ok(false);
            }
            let (taken, rest) = std::mem::take(input).split_at_mut(len);
            *input = rest;
            let start = self.header_len as usize;
            self.header[start..start + len].copy_from_slice(taken);
            self.header_len += len as u8;
        }
        self.start_frame()?;
        Ok(true)
    }

    /// How long the header is, by what is known of it. The first two bytes are judged as soon as
    /// they are there.
    fn header_needed(&self) -> Result<usize, CloseCode> {
        if self.header_len < 2 {
            return Ok(2);
        }
        let [first, second] = [self.header[0], self.header[1]];
        if first & 0x70 != 0 {
            return Err(CloseCode::Protocol);
        }
        let is_control = first & 0x08 != 0;
        let is_last = first & 0x80 != 0;
        let len = second & 0x7f;
        match first & 0x0f {
            // A continuation needs something to continue, and a message must end before the next.
            0x0 if !self.in_message => return Err(CloseCode::Protocol),
            0x1 | 0x2 if self.in_message => return Err(CloseCode::Protocol),
            0x1 => return Err(CloseCode::Unsupported),
            0x0 | 0x2 | 0x8 | 0x9 | 0xa => {}
            _ => return Err(CloseCode::Protocol),
        }
        if is_control && (!is_last || len as usize > CONTROL_BYTES_MAX) {
            return Err(CloseCode::Protocol);
        }
        let is_masked = second & 0x80 != 0;
        if is_masked != (self.role == Role::Server) {
            return Err(CloseCode::Protocol);
        }
        let extended = match len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        Ok(2 + extended + if is_masked { 4 } else { 0 })
    }

    fn start_frame(&mut self) -> Result<(), CloseCode> {
        let header = &self.header[..self.header_len as usize];
        let (len, mask_at) = match header[1] & 0x7f {
            126 => {
                let len = u64::from(u16::from_be_bytes([header[2], header[3]]));
                // The shortest form must be used.
                if len < 126 {
                    return Err(CloseCode::Protocol);
                }
                (len, 4)
            }
            127 => {
                let bytes = header[2..10].try_into().expect("eight bytes");
                let len = u64::from_be_bytes(bytes);
                if len <= 0xffff || len >> 63 != 0 {
                    return Err(CloseCode::Protocol);
                }
                (len, 10)
            }
            len => (u64::from(len), 2),
        };
        if self.role == Role::Server {
            self.mask.copy_from_slice(&header[mask_at..mask_at + 4]);
        }
        self.turn = 0;
        let first = header[0];
        self.header_len = 0;
        self.opcode = match first & 0x0f {
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            opcode => {
                let before = if opcode == 0 { u64::from(self.message_bytes) } else { 0 };
                let total = before.saturating_add(len);
                if total > u64::from(self.message_bytes_max) {
                    return Err(CloseCode::TooBig);
                }
                self.message_bytes = total as u32;
                self.last = first & 0x80 != 0;
                self.in_message = true;
                Opcode::Data
            }
        };
        self.remaining = len as u32;
        self.in_payload = true;
        Ok(())
    }

    /// Takes part of a control frame; gives the piece when it is whole.
    fn take_control<'b>(
        &mut self,
        payload: &[u8],
        ended: bool,
    ) -> Result<Option<Piece<'b>>, CloseCode> {
        if !ended || self.control.is_some() {
            self.control.get_or_insert_with(|| Box::new(Control::empty())).push(payload);
            if !ended {
                return Ok(None);
            }
        }
        let control = match self.control.take() {
            Some(control) => *control,
            None => {
                let mut control = Control::empty();
                control.push(payload);
                control
            }
        };
        Ok(Some(match self.opcode {
            Opcode::Ping => Piece::Ping(control),
            Opcode::Pong => Piece::Pong,
            Opcode::Close => {
                self.closed = true;
                Piece::Close(close_code(control.bytes())?)
            }
            Opcode::Data => unreachable!("control frames only"),
        }))
    }
}

impl Control {
    fn empty() -> Self {
        Control { len: 0, bytes: [0; CONTROL_BYTES_MAX] }
    }

    fn push(&mut self, payload: &[u8]) {
        let start = self.len as usize;
        self.bytes[start..start + payload.len()].copy_from_slice(payload);
        self.len += payload.len() as u8;
    }

    /// The payload, 125 bytes at most.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().fmt(f)
    }
}

/// The code in the payload of a close frame.
fn close_code(payload: &[u8]) -> Result<Option<u16>, CloseCode> {
    let code = match payload {
        [] => return Ok(None),
        [_] => return Err(CloseCode::Protocol),
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
    };
    // 1004 to 1006 and 1015 never travel; 1016 to 2999 are not given out.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CloseCode::Protocol);
    }
    if std::str::from_utf8(&payload[2..]).is_err() {
        return Err(CloseCode::Invalid);
    }
    Ok(Some(code))
}

/// Applies the mask, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4], turn: &mut u8) {
    let at = |n: usize| mask[(*turn as usize + n) & 3];
    let turned = [at(0), at(1), at(2), at(3)];
    let wide = u64::from_ne_bytes([
        turned[0], turned[1], turned[2], turned[3], turned[0], turned[1], turned[2], turned[3],
    ]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let bytes: [u8; 8] = (&*word).try_into().expect("eight bytes");
        word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (n, byte) in words.into_remainder().iter_mut().enumerate() {
        *byte ^= turned[n & 3];
    }
    *turn = ((*turn as usize + payload.len()) & 3) as u8;
}

const OP_BINARY: u8 = 0x82;
const OP_CLOSE: u8 = 0x88;
const OP_PONG: u8 = 0x8a;

/// Makes `out[from..]` the payload of one binary message of a server; nothing if it is empty.
pub fn wrap_binary(out: &mut Vec<u8>, from: usize) {
    let len = out.len() - from;
    if len > 0 {
        let (header, header_len) = header(OP_BINARY, len, 0);
        out.resize(out.len() + header_len, 0);
        out.copy_within(from..from + len, from + header_len);
        out[from..from + header_len].copy_from_slice(&header[..header_len]);
    }
}

/// Appends the answer to a ping. A client gives a `mask`, which must be unpredictable.
pub fn put_pong(out: &mut Vec<u8>, ping: &Control, mask: Option<[u8; 4]>) {
    put_frame(out, OP_PONG, ping.bytes(), mask);
}

/// Appends a close frame. `reason` is cut to what fits, 123 bytes.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + end].copy_from_slice(&reason.as_bytes()[..end]);
    put_frame(out, OP_CLOSE, &payload[..2 + end], mask);
}

/// Appends `payload` as one binary message of a client. `mask` must be unpredictable.
pub fn put_masked(out: &mut Vec<u8>, payload: &[u8], mask: [u8; 4]) {
    put_frame(out, OP_BINARY, payload, Some(mask));
}

fn put_frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let (header, header_len) = header(first, payload.len(), mask_bit);
    out.extend_from_slice(&header[..header_len]);
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        unmask(&mut out[start..], mask, &mut 0);
    }
}

fn header(first: u8, len: usize, mask_bit: u8) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = first;
    let used = if len < 126 {
        header[1] = len as u8;
        2
    } else if len <= 0xffff {
        header[1] = 126;
        header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        4
    } else {
        header[1] = 127;
        header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
        10
    };
    header[1] |= mask_bit;
    (header, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_are_taken_together_up_to_what_is_not_one() {
        let mut message = Vec::new();
        for text in ["one", "", "a somewhat longer one", "4"] {
            put_masked(&mut message, text.as_bytes(), MASK);
        }
        let whole = message.len();
        let mut long = message.clone();
        put_masked(&mut long, &[7; 126], MASK);
        let mut ping = message.clone();
        put_frame(&mut ping, 0x89, b"hi", Some(MASK));
        let mut fragment = message.clone();
        put_frame(&mut fragment, 0x02, b"begun", Some(MASK));
        let mut unmasked = message.clone();
        put_frame(&mut unmasked, OP_BINARY, b"bare", None);
        let mut cut = message.clone();
        put_masked(&mut cut, b"not all there", MASK);
        cut.pop();
        for mut bytes in [message, long, ping, fragment, unmasked, cut] {
            let mut decoder = Decoder::new(Role::Server, 1000);
            let (len, used) = decoder.take_short(&mut bytes);
            assert_eq!(&bytes[..len], b"onea somewhat longer one4");
            assert_eq!(used, whole);
        }
        // Nor are those over the limit, nor any while a frame or message is open.
        let mut bytes = Vec::new();
        put_masked(&mut bytes, &[1; 20], MASK);
        assert_eq!(Decoder::new(Role::Server, 19).take_short(&mut bytes.clone()), (0, 0));
        assert_eq!(Decoder::new(Role::Client, 99).take_short(&mut bytes.clone()), (0, 0));
        for opening in [&[0x82][..], &[0x82, 0x84, 0, 0, 0, 0, 1], &[0x02, 0x81, 0, 0, 0, 0, 1]] {
            let mut decoder = Decoder::new(Role::Server, 1000);
            let mut opening = opening.to_vec();
            let mut input = &mut opening[..];
            while decoder.next(&mut input).unwrap().is_some() {}
            assert_eq!(decoder.take_short(&mut bytes.clone()), (0, 0));
        }
    }

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// What a decoder makes of `pieces`: a line per piece, `"..."` for data, joined by spaces.
    fn read(role: Role, pieces: impl IntoIterator<Item = Vec<u8>>) -> String {
        let mut decoder = Decoder::new(role, 1000);
        let mut trace: Vec<String> = Vec::new();
        let mut data = Vec::new();
        let flush = |data: &mut Vec<u8>, trace: &mut Vec<String>| {
            if !data.is_empty() {
                trace.push(String::from_utf8_lossy(&std::mem::take(data)).into_owned());
            }
        };
        for mut piece in pieces {
            let mut input = &mut piece[..];
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(Piece::Data(bytes))) => data.extend_from_slice(bytes),
                    Ok(Some(other)) => {
                        flush(&mut data, &mut trace);
                        trace.push(match other {
                            Piece::Ping(c) => format!("ping({})", c.bytes().escape_ascii()),
                            other => format!("{other:?}"),
                        });
                    }
                    Ok(None) => break,
                    Err(code) => {
                        flush(&mut data, &mut trace);
                        trace.push(format!("{}", code as u16));
                        return trace.join(" ");
                    }
                }
            }
            assert!(input.is_empty());
        }
        flush(&mut data, &mut trace);
        trace.join(" ")
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, first, payload, Some(MASK));
        out
    }

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(read(Role::Server, [bytes.to_vec()]), expected, "at once");
        let single = bytes.iter().map(|byte| vec![*byte]);
        assert_eq!(read(Role::Server, single), expected, "byte by byte");
        for cut in 0..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(read(Role::Server, [one.to_vec(), two.to_vec()]), expected, "cut {cut}");
        }
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // 5.7: "Hello" masked (as binary here), ping and pong "Hello".
        let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        check(&masked, "Hello");
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(read(Role::Client, [ping.to_vec()]), "ping(Hello)");
        let mut decoder = Decoder::new(Role::Client, 1000);
        let mut bytes = ping;
        let Ok(Some(Piece::Ping(control))) = decoder.next(&mut &mut bytes[..]) else { panic!() };
        let mut out = Vec::new();
        put_pong(&mut out, &control, Some(MASK));
        let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(out, pong);
        assert_eq!(read(Role::Server, [out]), "Pong");
    }

    #[test]
    fn many_frames_in_one_read_and_control_frames_between_fragments() {
        let bytes = [
            frame(0x82, b"one"),
            frame(0x82, b""),
            frame(0x89, b""),
            frame(0x02, b"two "),
            frame(0x89, b"p"),
            frame(0x00, b"three "),
            frame(0x8a, b""),
            frame(0x80, b"four"),
            frame(0x82, &[b'x'; 200]),
            frame(0x88, &[0x03, 0xe9, b'b', b'y', b'e']),
            frame(0x82, b"after the end"),
        ]
        .concat();
        let x = "x".repeat(200);
        let expected = format!("one ping() two  ping(p) three  Pong four{x} Close(Some(1001))");
        check(&bytes, &expected);
    }

    /// The connection goes on in another process, wherever in the stream that happens.
    #[test]
    fn a_decoder_goes_on_where_another_stopped() {
        let bytes = [
            frame(0x82, b"one"),
            frame(0x02, b"two "),
            frame(0x89, b"ping"),
            frame(0x80, &[b'x'; 200]),
            frame(0x82, &[b'y'; 70_000]),
        ]
        .concat();
        let whole = read(Role::Server, [bytes.clone()]);
        let mut restored = 0;
        for cut in (0..600).chain((600..bytes.len()).step_by(997)) {
            let mut decoder = Decoder::new(Role::Server, 100_000);
            let (mut got, mut parts) = (Vec::new(), bytes.clone());
            let (first, second) = parts.split_at_mut(cut);
            for mut input in [first, second] {
                while let Some(piece) = decoder.next(&mut input).unwrap() {
                    if let Piece::Data(data) = piece {
                        got.extend_from_slice(data);
                    }
                }
                let mut saved = Vec::new();
                if decoder.save(&mut saved) {
                    restored += 1;
                    decoder = Decoder::restore(Role::Server, 100_000, &saved).unwrap();
                    assert!(Decoder::restore(Role::Server, 1, &saved).is_none() || cut < 7);
                    saved.pop();
                    assert!(Decoder::restore(Role::Server, 100_000, &saved).is_none());
                }
            }
            assert_eq!(got.len(), 3 + 4 + 200 + 70_000, "cut {cut}");
            assert!(got.starts_with(b"onetwo xx") && got.ends_with(b"yy"), "cut {cut}");
        }
        assert!(whole.contains("ping(ping)"));
        assert!(restored > 1_000, "only within a ping it cannot");
    }

    #[test]
    fn saved_bytes_of_whatever_kind_are_read_or_refused() {
        let mut saved = Vec::new();
        assert!(Decoder::new(Role::Server, 1000).save(&mut saved));
        for at in 0..saved.len() {
            for value in 0..=255 {
                let mut bytes = saved.clone();
                bytes[at] = value;
                if let Some(mut decoder) = Decoder::restore(Role::Server, 1000, &bytes) {
                    let _ = decoder.next(&mut &mut [0x82, 0x81, 1, 2, 3, 4, 5, 6, 7, 8][..]);
                }
            }
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_with_the_right_code() {
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = frame(0x82, b"x");
            change(&mut bytes);
            bytes
        };
        let header = |first: u8, len: u8, rest: &[u8]| [&[first, 0x80 | len], rest].concat();
        let mut many = vec![frame(0x02, &[0; 900])];
        many.extend(vec![frame(0x00, &[0; 99]), frame(0x00, &[0; 2])]);
        let data = "\0".repeat(999);
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("unmasked", vec![0x82, 1, b'x'], "1002"),
            ("reserved bit 1", with(&|b| b[0] |= 0x40), "1002"),
            ("reserved bit 3", with(&|b| b[0] |= 0x10), "1002"),
            ("text", frame(0x81, b"x"), "1003"),
            ("reserved data opcode", frame(0x83, b"x"), "1002"),
            ("reserved control opcode", frame(0x8b, b"x"), "1002"),
            ("control in fragments", frame(0x09, b"x"), "1002"),
            ("long control", header(0x89, 126, &[0, 126, 0, 0, 0, 0]), "1002"),
            ("continues nothing", frame(0x80, b"x"), "1002"),
            ("two at once", [frame(0x02, b"a"), frame(0x82, b"b")].concat(), "a 1002"),
            ("text within", [frame(0x02, b"a"), frame(0x81, b"b")].concat(), "a 1002"),
            ("not the shortest 16", header(0x82, 126, &[0, 125, 0, 0, 0, 0]), "1002"),
            ("not the shortest 64", header(0x82, 127, &[0; 12]), "1002"),
            ("negative length", header(0x82, 127, &[0xff; 12]), "1002"),
            ("huge length", header(0x82, 127, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), "1009"),
            ("oversized", header(0x82, 126, &[3, 0xe9, 0, 0, 0, 0]), "1009"),
            ("oversized in sum", many.concat(), &format!("{data} 1009")),
            ("close of one byte", frame(0x88, b"x"), "1002"),
            ("close with 1005", frame(0x88, &[0x03, 0xed]), "1002"),
            ("close with 2000", frame(0x88, &[0x07, 0xd0]), "1002"),
            ("close with bad text", frame(0x88, &[0x03, 0xe8, 0xff]), "1007"),
        ]
        .into_iter()
        .map(|(what, bytes, expected)| (what, bytes, &*expected.to_owned().leak()))
        .collect();
        for (what, bytes, expected) in cases {
            assert_eq!(read(Role::Server, [bytes.clone()]), expected, "{what}");
            let single = bytes.iter().map(|byte| vec![*byte]);
            assert_eq!(read(Role::Server, single), expected, "{what}, byte by byte");
        }
        // The other way round: a server must not mask.
        assert_eq!(read(Role::Client, [frame(0x82, b"x")]), "1002");
    }

    #[test]
    fn all_lengths_come_through_both_ways() {
        for len in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut masked = vec![7];
            put_masked(&mut masked, &payload, MASK);
            let mut wrapped = [&[7], &payload[..]].concat();
            wrap_binary(&mut wrapped, 1);
            for (role, bytes) in [(Role::Server, masked), (Role::Client, wrapped)] {
                let mut decoder = Decoder::new(role, 100_000);
                let mut got = Vec::new();
                for piece in bytes[1..].to_vec().chunks_mut(1021) {
                    let mut input = piece;
                    while let Some(Piece::Data(data)) = decoder.next(&mut input).unwrap() {
                        got.extend_from_slice(data);
                    }
                }
                assert_eq!(got, payload);
                assert!(decoder.is_between_frames());
            }
        }
    }

    #[test]
    fn a_reason_is_cut_to_what_fits() {
        let mut out = Vec::new();
        put_close(&mut out, 1009, &"ä".repeat(100), None);
        assert_eq!(out.len(), 2 + 2 + 122);
        assert_eq!(read(Role::Client, [out]), "Close(Some(1009))");
    }

    #[test]
    fn an_idle_connection_costs_little() {
        assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    }
}
