use std::time::Duration;

use super::super::option::{
    Group, Kind, Opt, Table, bytes, choice, count, daily, flag, rate, real, span, text,
};
use super::{DrainOptions, LogOptions, NodeLimits, StoreOptions};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All options there are.
pub(in crate::config) fn groups() -> Vec<&'static dyn Group> {
    vec![
        &GATE, &MESH, &HOST, &SESSION, &NODE, &BUS, &LISTEN, &REGISTRY, &SOCKETS, &WEB, &GUESTS,
        &STORE, &WATCHER, &DRAIN, &LOG,
    ]
}

static GATE: Table<gate::Options> = Table {
    name: "gate",
    doc: "Limits and waits of one gate worker.",
    slot: |options| &options.gate,
    slot_mut: |options| &mut options.gate,
    options: &[
        count!(connections_max, 1, 10_000_000, "Most connections, logged in or not."),
        count!(connections_per_address_max, 1, 10_000_000, "Most connections from one address."),
        rate!(
            handshakes_per_network,
            false,
            "New connections from one network: /24 of IPv4, /64 of IPv6."
        ),
        rate!(logins_per_account, false, "Logins and resumes of one account."),
        rate!(
            denied,
            false,
            "Messages of one account that are refused as not allowed; over it, it is banned."
        ),
        span!(denied_ban, 0, 365 * DAY, "How long such a ban holds."),
        flag!(
            spare_loopback,
            "Whether the two limits per address spare the loopback, behind which a proxy may stand."
        ),
        count!(
            operator_places,
            0,
            1_000_000,
            "How many of connections_max only operators may take."
        ),
        count!(
            operator_level,
            0,
            255,
            "The ticket level from which on an account counts as an operator."
        ),
        span!(handshake_max, 100, HOUR, "From accept to a complete login or resume."),
        span!(home_wait, 100, HOUR, "How long a session's home may take to admit it."),
        bytes!(frame_bytes_before_login, 256, MIB, "Longest frame from a client before login."),
        bytes!(frame_bytes_max, 256, 16 * MIB, "Longest frame from a client after login."),
        bytes!(
            output_bytes_before_login,
            256,
            MIB,
            "Most output that waits for a client that is not logged in."
        ),
        span!(
            heartbeat,
            0,
            HOUR,
            "A silent connection is pinged after this long; 0s switches heartbeats off."
        ),
        count!(
            heartbeats_missed_max,
            1,
            100,
            "Heartbeats without a sign of life after which a connection is dead."
        ),
        span!(
            idle_max,
            1_000,
            DAY,
            "Silence after which a connection is closed if heartbeats are off."
        ),
        span!(
            frame_grace,
            100,
            HOUR,
            "How long a begun frame may stay open whatever its sender's speed."
        ),
        bytes!(
            sender_bytes_per_second_min,
            0,
            GIB,
            "After the grace, the least speed of a sender with an open frame, each second."
        ),
        bytes!(
            output_bytes_thin,
            1024,
            GIB,
            "Output above which unnumbered frames to a client are merged, newest wins."
        ),
        bytes!(
            output_bytes_max,
            1024,
            GIB,
            "Output above which a client is closed as too slow a reader."
        ),
        bytes!(
            held_bytes_max,
            0,
            64 * MIB,
            "Most bytes held for a client whose login or route is not complete yet."
        ),
        count!(streams_max, 1, 65_535, "Most streams of a session."),
        count!(groups_max, 0, 65_535, "Most groups of a connection."),
        rate!(messages, false, "Frames of one session."),
        rate!(bytes, true, "Bytes of frames of one session."),
        choice!(
            over_rate,
            [
                "thin" = gate::OverRate::Thin,
                "warn" = gate::OverRate::Warn,
                "close" = gate::OverRate::Close
            ],
            "What is done with a session over its rate: drop what may be lost, only count, or close."
        ),
        span!(owner_wait, 0, HOUR, "How long the home has to end the streams of a lost owner."),
        span!(token_life, 60_000, 30 * DAY, "Life of a resume token."),
        span!(linger, 0, 60_000, "How long a closing connection may take to read its last frames."),
    ],
};

static MESH: Table<mesh::Options> = Table {
    name: "mesh",
    doc: "Links among the nodes of the cluster.",
    slot: |options| &options.mesh,
    slot_mut: |options| &mut options.mesh,
    options: &[
        bytes!(
            frame_bytes_max,
            16 * KIB,
            64 * MIB,
            "Longest frame; arguments and replies of calls to other nodes are 8 KiB shorter."
        ),
        bytes!(queue_bytes_soft, 4 * KIB, 4 * GIB, "A queue this long takes replies only."),
        bytes!(queue_bytes_hard, 4 * KIB, 4 * GIB, "A link whose queue grows over this is closed."),
        bytes!(
            pending_bytes_max,
            0,
            GIB,
            "Most bytes kept for a node while it cannot be reached yet."
        ),
        span!(
            pending_wait,
            0,
            HOUR,
            "How long mail waits for a node that cannot be reached before it is dropped."
        ),
        span!(connect_wait, 10, HOUR, "How long a dial may take."),
        span!(handshake_wait, 10, HOUR, "How long the handshake may take."),
        span!(heartbeat, 100, HOUR, "A link silent for this long is pinged."),
        count!(missed_max, 1, 100, "So many pings without any sign of life end a link."),
        span!(retry_first, 1, HOUR, "First wait before dialing again; doubles up to retry_max."),
        span!(retry_max, 1, DAY, "Longest wait before dialing again."),
        count!(
            handshakes_max,
            1,
            65_535,
            "Most accepted links that have not proven themselves yet."
        ),
        count!(links_max, 1, 1_000_000, "Most links."),
    ],
};

static HOST: Table<node::HostOptions> = Table {
    name: "host",
    doc: "Entities of one worker: calls, mailboxes, turns.",
    slot: |options| &options.host,
    slot_mut: |options| &mut options.host,
    options: &[
        daily!(
            daily,
            "When the day of the game changes and the daily hooks run, such as \"05:00 Asia/Shanghai\"."
        ),
        span!(
            call_wait,
            1,
            DAY,
            "How long a caller waits for an answer, unless the method or the call says otherwise."
        ),
        count!(
            mailbox_max,
            1,
            1 << 20,
            "Most messages that wait for one entity, unless its kind says otherwise."
        ),
        count!(
            mail_max,
            1,
            1 << 30,
            "Most messages that wait on the worker, all entities together."
        ),
        count!(
            entity_calls_max,
            1,
            1 << 20,
            "Most calls that one entity has in flight, unless its kind says otherwise."
        ),
        count!(calls_max, 1, 1 << 20, "Most calls in flight for each kind."),
        count!(entity_turns_max, 1, 1 << 20, "Most interleave turns of one entity open at a time."),
        count!(turns_max, 1, 1 << 24, "Most turns open (suspended at an await) at a time."),
        count!(entities_max, 1, 1 << 30, "Most entities."),
        count!(timers_max, 1, 1 << 30, "Most timers, all entities together."),
        count!(
            worker_queue_max,
            64,
            1 << 24,
            "Most messages on the way to one other worker of the node."
        ),
        count!(
            batch,
            1,
            1 << 16,
            "Most messages that one entity handles before the next one has its turn."
        ),
        count!(
            turn_budget,
            1,
            1 << 24,
            "Most messages that one turn of the worker handles before it looks at its sockets."
        ),
        span!(slow_handler, 1, HOUR, "A handler that takes longer is reported."),
        span!(
            panic_window,
            1_000,
            DAY,
            "Three panics of one entity within this time quarantine it."
        ),
        count!(
            gone_max,
            0,
            1 << 24,
            "How many destroyed entities are remembered, to tell those that are gone from those that never were."
        ),
        flag!(
            encode_all,
            "Test mode: arguments and replies of local calls are encoded and decoded too."
        ),
    ],
};

static SESSION: Table<node::session::Options> = Table {
    name: "session",
    doc: "Sessions, streams and groups of one worker.",
    slot: |options| &options.session,
    slot_mut: |options| &mut options.session,
    options: &[
        choice!(
            second_login,
            [
                "kick_first" = node::session::SecondLogin::KickFirst,
                "refuse" = node::session::SecondLogin::Refuse
            ],
            "What a second login of an account does: end the first session, or be refused while the first plays."
        ),
        span!(
            resume_window,
            0,
            DAY,
            "How long a session without a connection waits for its client."
        ),
        count!(sessions_max, 1, 10_000_000, "Most sessions; further logins are refused."),
        count!(session_streams_max, 1, 32, "Most streams of one session."),
        count!(
            used_tickets_max,
            1,
            100_000_000,
            "Most used tickets remembered; at the limit logins are refused."
        ),
        count!(
            ended_max,
            0,
            100_000_000,
            "Most ended sessions whose end is remembered for a late resume."
        ),
        span!(
            bind_wait,
            10,
            HOUR,
            "How long an owner may take to open a stream before it counts as away."
        ),
        span!(
            bind_pause,
            1,
            HOUR,
            "Pause before the second try to open a stream; doubles with each try."
        ),
        span!(bind_pause_max, 1, HOUR, "Longest pause between tries."),
        count!(bind_tries, 1, 1_000, "Tries for a stream that a login or a handler asked for."),
        count!(streams_max, 1, 10_000_000, "Most streams that end at the worker's entities."),
        count!(
            unacked_frames_max,
            1,
            1 << 24,
            "Most frames of one stream that a connected client may leave unacknowledged."
        ),
        bytes!(unacked_bytes_max, KIB, GIB, "The same in bytes of bodies."),
        count!(
            held_frames_max,
            0,
            1 << 24,
            "Most frames added to one stream while its client is away."
        ),
        bytes!(held_bytes_max, 0, GIB, "The same in bytes of bodies."),
        count!(
            held_latest_max,
            0,
            65_535,
            "Most latest values kept for one stream while its client is away."
        ),
        count!(
            open_requests_max,
            1,
            65_535,
            "Most requests of one stream that wait for their answer."
        ),
        count!(open_calls_max, 1, 65_535, "Most calls to one client that wait for its answer."),
        bytes!(body_bytes_max, KIB, 64 * MIB, "Longest message to clients."),
        span!(
            call_wait,
            1,
            HOUR,
            "How long a client may take to answer a call, unless the method says otherwise."
        ),
        span!(
            ack_wait,
            1,
            HOUR,
            "How long a handled frame may stay unacknowledged when nothing is sent."
        ),
        count!(groups_max, 0, 10_000_000, "Most groups."),
        count!(group_members_max, 1, 10_000_000, "Most members of one group."),
        count!(stream_groups_max, 0, 160, "Most groups that one stream is a member of."),
        count!(
            group_ring_frames_max,
            0,
            1 << 24,
            "Most casts of a reliable group kept for members that are away."
        ),
        bytes!(group_ring_bytes_max, 0, GIB, "The same in bytes of bodies."),
    ],
};

static NODE: Table<NodeLimits> = Table {
    name: "node",
    doc: "A node around its workers.",
    slot: |options| &options.node,
    slot_mut: |options| &mut options.node,
    options: &[
        bytes!(
            worker_queue_bytes_max,
            64 * KIB,
            4 * GIB,
            "Most bytes of frames that wait from one worker to another."
        ),
        count!(blocking_threads, 1, 1_024, "Threads for blocking work, shared by the workers."),
        count!(blocking_jobs_max, 1, 1 << 20, "Most jobs that wait for such a thread."),
        count!(
            rooms_max,
            0,
            1 << 20,
            "Rooms that the node takes at most when they are placed; 0 is any number."
        ),
        span!(
            stuck_after,
            10,
            HOUR,
            "A turn of a worker that takes longer is reported while it lasts."
        ),
        span!(
            flush_wait,
            0,
            HOUR,
            "How long a stopping worker waits for its last frames to leave."
        ),
        span!(answer_wait, 10, HOUR, "How long a question of the console waits for a worker."),
    ],
};

static BUS: Table<bus::Options> = Table {
    name: "bus",
    doc: "Subjects and queues of one node.",
    slot: |options| &options.bus,
    slot_mut: |options| &mut options.bus,
    options: &[
        count!(subscriptions_max, 1, 10_000_000, "Most subscriptions open at once."),
        count!(queue_messages_max, 1, 1 << 24, "Most messages that wait for one listener."),
        bytes!(queue_bytes_max, KIB, 4 * GIB, "Most bytes of messages that wait for one listener."),
        bytes!(message_bytes_max, 256, 64 * MIB, "Longest message."),
        count!(ids_kept, 0, 100_000_000, "How many published ids are remembered."),
        count!(attempts_max, 1, 1_000, "How often a message is given out before it is set aside."),
        count!(dead_max, 0, 10_000_000, "Most messages kept that were set aside."),
        span!(lease, 10, DAY, "How long a listener may hold a message that may not be lost."),
        count!(kept_messages_max, 1, 1 << 30, "Most messages that wait at a server of a topic."),
        count!(unconfirmed_max, 1, 1 << 24, "Most messages that a server has not confirmed."),
        count!(asks_max, 1, 1 << 24, "Most asked for by a process that has no answer."),
        count!(asks_queued_max, 1, 1 << 24, "Most of it that waits for the workers of one queue."),
        span!(ids_wait, 100, DAY, "How long a server remembers ids, where it does."),
        span!(
            idle_wait,
            1_000,
            DAY,
            "How long a server keeps the mail of a listener or group that nobody speaks for."
        ),
        span!(
            silence_wait,
            1_000,
            HOUR,
            "After how much silence of a process a server gives its messages to others."
        ),
        span!(answer_wait, 10, HOUR, "How long a start waits for a server's word on a topic."),
    ],
};

static LISTEN: Table<transport::ListenOptions> = Table {
    name: "listen",
    doc: "Ports of clients and other processes.",
    slot: |options| &options.listen,
    slot_mut: |options| &mut options.listen,
    options: &[count!(
        backlog,
        1,
        1 << 20,
        "Connections that the system keeps until they are accepted."
    )],
};

static REGISTRY: Table<cluster::Options> = Table {
    name: "registry",
    doc: "The list of nodes.",
    slot: |options| &options.registry,
    slot_mut: |options| &mut options.registry,
    options: &[
        span!(
            lease,
            1_000,
            HOUR,
            "How long a node stays listed without renewing; it renews every third of this."
        ),
        count!(nodes_max, 1, 65_535, "Most nodes listed at once."),
        span!(
            answer_wait,
            100,
            60_000,
            "How long a coordinator outside the process is waited for."
        ),
    ],
};

static SOCKETS: Table<transport::Options> = Table {
    name: "sockets",
    doc: "Sockets of one worker.",
    slot: |options| &options.sockets,
    slot_mut: |options| &mut options.sockets,
    options: &[
        count!(
            sockets_max,
            1,
            10_000_000,
            "Most sockets and pipes open at once; what is accepted above it is closed."
        ),
        count!(
            accepts_per_poll,
            1,
            65_535,
            "Most connections accepted from one listener before the others have their turn."
        ),
        span!(accept_pause, 0, 60_000, "How long accepting rests after the system refused."),
        span!(
            linger,
            0,
            60_000,
            "How long a finished socket waits for its peer to read the rest and close."
        ),
        flag!(
            portable_timer,
            "Keep deadlines by the poll's own timeout even where the system has exact timers."
        ),
    ],
};

static WEB: Table<web::Options> = Table {
    name: "web",
    doc: "The HTTP server.",
    slot: |options| &options.web,
    slot_mut: |options| &mut options.web,
    options: &[
        count!(
            connections_max,
            1,
            1_000_000,
            "Connections served at a time; further ones are closed at once."
        ),
        bytes!(body_bytes_max, 0, GIB, "Longest request body."),
        bytes!(head_bytes_max, 8 * KIB, MIB, "Longest request head."),
        span!(
            head_wait,
            100,
            HOUR,
            "How long a request head may take, and how long a connection may idle between requests."
        ),
        span!(stop_wait, 0, HOUR, "How long stopping waits for requests under way."),
    ],
};

static GUESTS: Table<web::GuestOptions> = Table {
    name: "guests",
    doc: "Tickets for anybody who asks, where the game offers them.",
    slot: |options| &options.guests,
    slot_mut: |options| &mut options.guests,
    options: &[
        span!(ticket_life, 1_000, DAY, "How long a ticket is good for."),
        real!(per_second, 0.0, 1e6, "Tickets per second for one address, on average."),
        real!(burst, 1.0, 1e6, "Tickets that one address may take at once."),
        count!(addresses_max, 1, 10_000_000, "Addresses remembered for the limit."),
        count!(name_chars_max, 1, 200, "Longest name, in characters."),
    ],
};

static STORE: Table<StoreOptions> = Table {
    name: "store",
    doc: "Ownership in the store, and write-behind.",
    slot: |options| &options.store,
    slot_mut: |options| &mut options.store,
    options: &[
        span!(beat, 10, HOUR, "How often a node raises its beat."),
        span!(
            park_after,
            100,
            HOUR,
            "Without an acknowledged beat for this long a node parks its entities."
        ),
        span!(
            takeover_after,
            100,
            HOUR,
            "Without a beat for this long an observer may mark a node dead."
        ),
        span!(write_behind, 1, 60_000, "How long a change may wait before it is written."),
    ],
};

static WATCHER: Table<store::WatcherOptions> = Table {
    name: "watcher",
    doc: "Watching the servers of stores, by processes with that role.",
    slot: |options| &options.watcher,
    slot_mut: |options| &mut options.watcher,
    options: &[
        span!(ping_every, 10, 60_000, "How often each server is asked how it is."),
        span!(
            down_after,
            100,
            HOUR,
            "A server that has not answered for this long is voted down; votes count for as long."
        ),
        count!(
            quorum,
            1,
            1_000,
            "So many watchers must hold a server for down before another is promoted."
        ),
        span!(promote_wait, 1_000, HOUR, "How long a promotion may take before another is tried."),
    ],
};

static DRAIN: Table<DrainOptions> = Table {
    name: "drain",
    doc: "How long a process that stops may take.",
    slot: |options| &options.drain,
    slot_mut: |options| &mut options.drain,
    options: &[
        span!(node_max, 0, DAY, "In all, before it is forced."),
        span!(room_max, 0, DAY, "For rooms that wait for their own end."),
    ],
};

static LOG: Table<LogOptions> = Table {
    name: "log",
    doc: "What is logged where.",
    slot: |options| &options.log,
    slot_mut: |options| &mut options.log,
    options: &[
        text!(levels, "Levels by target: \"info\", or \"info,gate=debug,node::host=trace\"."),
        flag!(console, "Show lines on standard error, coloured if it is a terminal."),
        flag!(files, "Write rolled files to \"log\" in the data folder."),
        bytes!(
            file_bytes_max,
            4 * KIB,
            1024 * GIB,
            "A file that would grow beyond this is closed and the next begun."
        ),
        count!(files_max, 1, 100_000, "Files kept; older ones are deleted."),
        count!(
            queue_lines_max,
            16,
            1 << 24,
            "Lines that may wait to be written before further ones are dropped and counted."
        ),
    ],
};
