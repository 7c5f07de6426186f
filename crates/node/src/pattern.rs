//! The seven patterns, the seven routes, and which pattern may travel on which route.
//!
//! [`TABLE`] is the only statement of it: the attribute macros make the compiler ask it for every
//! declared method, so a pattern on a route that cannot carry it does not compile.

/// How a message is meant: who speaks, and whether an answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Pattern {
    /// One-way to an entity or service.
    Tell = 0,
    /// From a client, with an answer.
    Request = 1,
    /// From a server, with an answer.
    Invoke = 2,
    /// To one client; with an answer only where the client's interface declares a `call`.
    Sync = 3,
    /// To a typed group of clients.
    Multicast = 4,
    /// To the subscribers of a topic.
    Notify = 5,
    /// The answer to a request, an invoke or a client's call.
    Reply = 6,
}

/// Where a message travels. A hop named *bus* is the mesh where both ends are entities or named
/// instances, and the bus where the receiver is any instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Route {
    /// Client → gate → entity or service.
    ClientGateService = 0,
    /// Entity or service → gate → one client.
    ServiceGateClient = 1,
    /// Entity or service → gate → many clients.
    ServiceGateClients = 2,
    /// Client → bus → service, over the client's one connection.
    ClientBusService = 3,
    /// Service → bus → one client, over the client's one connection.
    ServiceBusClient = 4,
    /// Entity or service → mesh or bus → entity or service.
    ServiceBusService = 5,
    /// Entity or service → bus → many services.
    ServiceBusServices = 6,
}

/// Whether a route carries a pattern, or why not and what to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// It does.
    Yes,
    /// It does not; the text says what to write instead.
    No(&'static str),
}

impl Pattern {
    /// All patterns, in the order of [`TABLE`]'s rows.
    pub const ALL: [Pattern; 7] = [
        Pattern::Tell,
        Pattern::Request,
        Pattern::Invoke,
        Pattern::Sync,
        Pattern::Multicast,
        Pattern::Notify,
        Pattern::Reply,
    ];

    /// The pattern's name in attributes and in the schema.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Tell => "tell",
            Pattern::Request => "request",
            Pattern::Invoke => "invoke",
            Pattern::Sync => "sync",
            Pattern::Multicast => "multicast",
            Pattern::Notify => "notify",
            Pattern::Reply => "reply",
        }
    }

    /// Whether somebody waits for an answer.
    pub const fn answers(self) -> bool {
        matches!(self, Pattern::Request | Pattern::Invoke)
    }
}

impl Route {
    /// All routes, in the order of [`TABLE`]'s columns.
    pub const ALL: [Route; 7] = [
        Route::ClientGateService,
        Route::ServiceGateClient,
        Route::ServiceGateClients,
        Route::ClientBusService,
        Route::ServiceBusClient,
        Route::ServiceBusService,
        Route::ServiceBusServices,
    ];
}

const TO_CLIENT: Carry =
    Carry::No("this way leads to clients: declare it in a `#[client]` interface as `#[sync]`");
const REQUEST_ONLY: Carry =
    Carry::No("a client's call with an answer is a `request`: write `#[request(client)]`");
const INVOKE_ONLY: Carry =
    Carry::No("a server's call with an answer is an `invoke`: write `#[invoke]`");
const MANY: Carry = Carry::No(
    "this way leads to many receivers: use a group (`multicast`) or a topic (`notify`), which \
     take no answer",
);
const CLIENTS_ONLY: Carry = Carry::No(
    "`sync` and `multicast` lead from a server to clients: declare the method in a `#[client]` \
     interface; towards an entity or service it is a `tell`, `request` or `invoke`",
);
const ONE_CLIENT: Carry = Carry::No("one client is reached by `sync`; `multicast` takes a group");
const GROUP_ONLY: Carry = Carry::No("many clients are reached by `multicast` on a group");
const GROUP_BY_GATE: Carry =
    Carry::No("groups are copied at the gate: a multicast takes no bus hop");
const TOPIC: Carry = Carry::No(
    "`notify` leads to the subscribers of a topic over the bus: publish with `cx.notify`, it is \
     not declared on a method",
);
const NO_ANSWER: Carry = Carry::No("many receivers give no answer");
use Carry::Yes;

/// Which route carries which pattern: rows as in [`Pattern::ALL`], columns as in [`Route::ALL`].
pub const TABLE: [[Carry; 7]; 7] = [
    // c→g→s        s→g→c       s→g→cc        c→b→s         s→b→c       s→b→s         s→b→ss
    [Yes, TO_CLIENT, TO_CLIENT, Yes, TO_CLIENT, Yes, MANY],
    [Yes, TO_CLIENT, MANY, Yes, TO_CLIENT, INVOKE_ONLY, MANY],
    [REQUEST_ONLY, TO_CLIENT, MANY, REQUEST_ONLY, TO_CLIENT, Yes, MANY],
    [CLIENTS_ONLY, Yes, GROUP_ONLY, CLIENTS_ONLY, Yes, CLIENTS_ONLY, CLIENTS_ONLY],
    [CLIENTS_ONLY, ONE_CLIENT, Yes, CLIENTS_ONLY, GROUP_BY_GATE, CLIENTS_ONLY, CLIENTS_ONLY],
    [TOPIC, TOPIC, TOPIC, Yes, Yes, TOPIC, Yes],
    [Yes, Yes, NO_ANSWER, Yes, Yes, Yes, NO_ANSWER],
];

/// Whether `route` carries `pattern`. Macro output asks in a constant, so that a refusal is a
/// compile error.
pub const fn carries(pattern: Pattern, route: Route) -> Carry {
    TABLE[pattern as usize][route as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn table_of_patterns_and_routes() {
        let mut text = String::new();
        for pattern in Pattern::ALL {
            text.push_str(&format!("{:<10}", pattern.name()));
            for route in Route::ALL {
                text.push_str(if carries(pattern, route) == Yes { " x" } else { " ." });
            }
            text.push('\n');
        }
        expect![[r#"
            tell       x . . x . x .
            request    x . . x . . .
            invoke     . . . . . x .
            sync       . x . . x . .
            multicast  . . x . . . .
            notify     . . . x x . x
            reply      x x . x x x .
        "#]]
        .assert_eq(&text);
    }
}
