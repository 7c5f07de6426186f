use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// Code of an answer that went well.
pub const OK: i32 = 0;
/// Code of the answer to a command that no route handles.
pub const UNKNOWN_COMMAND: i32 = -10_000;
/// Code of the answer when a handler or a before-hook failed without a code of its own.
pub const HANDLER_FAILED: i32 = -10_001;
/// Code of the answer when the responder was dropped without an answer.
pub const ANSWER_LOST: i32 = -10_002;
/// Code of the answer when none was given within `answer_wait`.
pub const ANSWER_TIMEOUT: i32 = -10_003;
/// Code of the answer to a request over `requests_max`.
pub const BUSY: i32 = -10_004;

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The connection, numbered by whoever feeds the router; never used twice.
    pub connection: u64,
    /// The client's address, as text.
    pub address: String,
    /// The entry it came in by: a listener, a stream or a queue, by name.
    pub endpoint: String,
}

/// What is known of a request besides its body. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// The command number.
    pub command: u32,
    /// The handler's place: `app` or the blueprint's name, then the command.
    pub route: Rc<str>,
    /// Where it came from.
    pub peer: Rc<Peer>,
}

/// Why a handler or hook did not do its work.
///
/// The code goes to the caller; the text stays on the server and is reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (code {code})")]
pub struct Failure {
    code: i32,
    text: String,
}

impl Failure {
    /// A failure that the caller sees as [`HANDLER_FAILED`].
    pub fn new(text: impl Into<String>) -> Self {
        Failure { code: HANDLER_FAILED, text: text.into() }
    }

    /// A failure that the caller sees as `code`. The game's own codes are above -10,000.
    pub fn with_code(code: i32, text: impl Into<String>) -> Self {
        Failure { code, text: text.into() }
    }

    /// What the caller gets.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// What the server's log gets.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        Failure::new(error.to_string())
    }
}

/// Why an answer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The request's responder was used or taken before.
    #[error("the request was answered, or its responder taken, before")]
    Used,
    /// The caller sent a one-way command.
    #[error("the caller asked for no answer")]
    NotAsked,
}

/// One request, as hooks and its handler see it.
pub struct Request {
    pub(super) info: RequestInfo,
    pub(super) body: Vec<u8>,
    pub(super) asked: bool,
    pub(super) responder: Option<Responder>,
    pub(super) interrupted: bool,
    pub(super) bag: Arc<Mailbag>,
}

impl Request {
    /// The command number.
    pub fn command(&self) -> u32 {
        self.info.command
    }

    /// The bytes that came with the command.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes the body out, leaving it empty.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// The client's address, as text.
    pub fn address(&self) -> &str {
        &self.info.peer.address
    }

    /// The entry that the request came in by.
    pub fn endpoint(&self) -> &str {
        &self.info.peer.endpoint
    }

    /// Where the request came from.
    pub fn peer(&self) -> &Peer {
        &self.info.peer
    }

    /// What is known of the request besides its body.
    pub fn info(&self) -> &RequestInfo {
        &self.info
    }

    /// Answers with [`OK`] and `body`.
    ///
    /// # Errors
    ///
    /// `Used` after the first answer and after [`responder`](Self::responder); `NotAsked` for a
    /// one-way command.
    pub fn answer(&mut self, body: impl Into<Vec<u8>>) -> Result<(), AnswerError> {
        self.responder().map(|responder| responder.answer(body))
    }

    /// Answers with `code` and `body`.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn answer_code(&mut self, code: i32, body: impl Into<Vec<u8>>) -> Result<(), AnswerError> {
        self.responder().map(|responder| responder.answer_code(code, body))
    }

    /// Takes the responder, to answer later or elsewhere.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn responder(&mut self) -> Result<Responder, AnswerError> {
        let refused = if self.asked { AnswerError::Used } else { AnswerError::NotAsked };
        self.responder.take().ok_or(refused)
    }

    /// Whether the responder is still here.
    pub fn awaits_answer(&self) -> bool {
        self.responder.is_some()
    }

    /// Ends the request at this point: from a before-hook, neither further hooks nor the handler
    /// run. Answers with `code` and `body` if an answer is still due.
    pub fn interrupt(&mut self, code: i32, body: impl Into<Vec<u8>>) {
        self.interrupted = true;
        if let Some(responder) = self.responder.take() {
            responder.answer_code(code, body);
        }
    }

    /// Closes the connection at the next pause of the handler, after all answers given until
    /// then.
    pub fn close(&mut self) {
        self.bag.put(self.info.peer.connection, Given::Close);
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("info", &self.info)
            .field("body", &self.body.len())
            .field("awaits_answer", &self.awaits_answer())
            .finish_non_exhaustive()
    }
}

/// Told that an answer was given outside a turn of the router: wake what drives it.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// Answers on their way back to their router, from any thread.
pub(super) struct Mailbag {
    answers: Mutex<VecDeque<(u64, Given)>>,
    notify: Option<Notify>,
}

/// What a request gave: with the request's number, or for `Close` the connection's.
pub(super) enum Given {
    Answer(i32, Vec<u8>),
    Dropped,
    Close,
}

impl Mailbag {
    pub(super) fn new(notify: Option<Notify>) -> Arc<Self> {
        Arc::new(Mailbag { answers: Mutex::new(VecDeque::new()), notify })
    }

    pub(super) fn take(&self) -> VecDeque<(u64, Given)> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, id: u64, given: Given) {
        // A holder that panicked left a whole queue behind: pushing is one step.
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push_back((id, given));
        drop(answers);
        if let Some(notify) = &self.notify {
            notify();
        }
    }
}

/// The right to answer one request, once. May be moved to another task or thread.
///
/// Dropped without an answer, the caller gets [`ANSWER_LOST`] at once.
#[must_use = "a responder that is dropped answers with an error"]
pub struct Responder {
    id: u64,
    bag: Option<Arc<Mailbag>>,
}

impl Responder {
    pub(super) fn new(id: u64, bag: Arc<Mailbag>) -> Self {
        Responder { id, bag: Some(bag) }
    }

    /// Answers with [`OK`] and `body`.
    pub fn answer(self, body: impl Into<Vec<u8>>) {
        self.answer_code(OK, body);
    }

    /// Answers with `code` and `body`.
    pub fn answer_code(mut self, code: i32, body: impl Into<Vec<u8>>) {
        if let Some(bag) = self.bag.take() {
            bag.put(self.id, Given::Answer(code, body.into()));
        }
    }

    /// Turns the right to answer into a number that another process can hold. The answer comes
    /// back by [`Router::handle_ticket`](super::Router::handle_ticket); without one within
    /// `answer_wait`, the caller gets [`ANSWER_TIMEOUT`].
    pub fn into_ticket(mut self) -> Ticket {
        self.bag = None;
        Ticket(self.id)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(bag) = self.bag.take() {
            bag.put(self.id, Given::Dropped);
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({})", self.id)
    }
}

/// The right to answer one request from another process: a plain number, valid at its router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An answer on its way to the caller; response hooks may change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`OK`], a code of the game, or one of this module's.
    pub code: i32,
    /// The answer's bytes.
    pub body: Vec<u8>,
}
