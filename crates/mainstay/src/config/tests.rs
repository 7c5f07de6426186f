use expect_test::{Expect, expect};
use proto::{Namespace, Scope};

use super::*;

fn roles() -> Roles {
    let mut roles = Roles::standard(["avatar", "room", "chat"]);
    roles.add("battle", Role::new().entities(["room"]));
    roles
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_input(&Input::of_text("c.json", text), &roles())
}

fn errors(text: &str, expect: Expect) {
    expect.assert_eq(&read(text).expect_err("wrong").to_string());
}

const CLUSTER: &str = r#"{
    // Three gates and two kinds of nodes.
    "$MACRO$": {"NET": "10.0.0", "KEY": "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef"},
    "cluster": "arena",
    "data": "state", "coordinator": {"etcd": {"endpoints": ["http://10.0.0.9:2379"], "prefix": "a/"}},
    "keys": {
        "tickets": [{"id": 2, "key": {"env": "TICKETS"}}, {"id": 1, "key": "$KEY$"}],
        "mesh": {"file": "mesh.key"},
        "console": "open sesame",
    },
    "options": {"gate": {"heartbeat": "7s", "streams_max": 9}, "log": {"levels": "debug"}},
    "zones": {"east": {"options": {"gate": {"heartbeat": "8s", "bytes": {"per_second": "1KiB", "burst": 4096}}}}},
    "roles": {"talk": {"entities": ["chat"], "console": true}},
    "processes": {
        "gate": {
            "roles": ["gate", "web"], "count": 3, "zone": "east", "gate_workers": 2,
            "listen": {
                "clients": "0.0.0.0:7000", "mesh": "$NET$.1:7100",
                "origins": ["https://arena.example"],
            },
            "options": {"gate": {"streams_max": 10}},
        },
        "node-a": {"roles": ["node"], "host": "b", "workers": 4, "weight": 2,
            "listen": {"mesh": "0.0.0.0:7100", "advertise": "$NET$.2:7100"}},
        "talk": {"roles": ["talk", "battle"], "host": "b",
            "listen": {"web": 8080, "console": ["127.0.0.1:8081", "[::1]:8081"], "mesh": "$NET$.2:7101"}},
    },
}"#;

#[test]
fn a_whole_cluster_is_read() {
    let config = read(CLUSTER).expect("valid");
    assert_eq!((config.cluster.as_str(), config.zones.len()), ("arena", 1));
    let mut shown = String::new();
    for process in &config.processes {
        let Process { name, host, roles, clients, web, console, mesh, .. } = process;
        shown += &format!("{name}@{host} {roles:?} {clients:?} {web:?} {console:?} {mesh:?}\n");
        shown += &format!("    {:?}\n", process.runs);
    }
    expect![[r#"
        gate-1@ ["gate", "web"] [0.0.0.0:7000] [] [] Some(10.0.0.1:7100)
            Role { gate: true, sessions: false, entities: None, web: true, console: false, data: false, watcher: false }
        gate-2@ ["gate", "web"] [0.0.0.0:7001] [] [] Some(10.0.0.1:7101)
            Role { gate: true, sessions: false, entities: None, web: true, console: false, data: false, watcher: false }
        gate-3@ ["gate", "web"] [0.0.0.0:7002] [] [] Some(10.0.0.1:7102)
            Role { gate: true, sessions: false, entities: None, web: true, console: false, data: false, watcher: false }
        node-a@b ["node"] [] [] [] Some(0.0.0.0:7100)
            Role { gate: false, sessions: true, entities: All, web: false, console: false, data: false, watcher: false }
        talk@b ["talk", "battle"] [] [127.0.0.1:8080] [127.0.0.1:8081, [::1]:8081] Some(10.0.0.2:7101)
            Role { gate: false, sessions: false, entities: Named({"chat", "room"}), web: false, console: true, data: false, watcher: false }
    "#]].assert_eq(&shown);
    let node = config.process("node-a").expect("there");
    assert_eq!((node.workers_on(16), node.weight), (4, 2));
    assert_eq!(node.reachable_at(), "10.0.0.2:7100".parse().ok());
    let options = node.node_options();
    assert_eq!((options.workers, options.weight, options.sessions), (4, 2, true));
    assert_eq!((options.mesh.cluster.as_str(), options.renew_every.as_secs()), ("arena", 5));
    assert_eq!(config.process("talk").expect("there").workers_on(16), 16);
    assert!(node.runs.entities.has("avatar") && !config.processes[4].runs.entities.has("avatar"));
    assert_eq!(config.choose(Some("gate-2")).expect("there").name, "gate-2");
    expect!["cluster arena has several processes: choose one of gate-1, gate-2, gate-3, node-a, talk (--process NAME)"].assert_eq(&config.choose(None).expect_err("several"));
    expect![[
        r#"cluster arena has no process "gate": there are gate-1, gate-2, gate-3, node-a, talk"#
    ]]
    .assert_eq(&config.choose(Some("gate")).expect_err("numbered"));
}

#[test]
fn layers_lie_over_each_other_and_tell_their_origin() {
    let mut input = Input::of_text("c.json", CLUSTER);
    let var = |name: &str, value: &str| (name.to_string(), value.to_string());
    input.environment = vec![
        var("MAINSTAY_OPTIONS__GATE__HEARTBEAT", "9s"),
        var("MAINSTAY_PROCESSES__NODE_A__WORKERS", "5"),
        var("MAINSTAY_PROCESS", "gate-1"),
        var("MAINSTAY_BENCH_SOMETHING", "1"),
        var("PATH", "/bin"),
    ];
    input.settings =
        vec!["options.gate.heartbeat=10s".to_string(), "options.host.mailbox_max=99".to_string()];
    let config = Config::from_input(&input, &roles()).expect("valid");
    let gate = config.process("gate-2").expect("there");
    let shown: Vec<String> = config
        .effective(gate)
        .iter()
        .filter(|value| value.origin != "default" || value.path.ends_with("idle_max"))
        .map(Effective::to_string)
        .collect();
    expect![[r#"
        cluster = "arena"  (c.json:4:16)
        data = "state"  (c.json:5:13)
        coordinator.etcd.endpoints.0 = "http://10.0.0.9:2379"  (c.json:5:61)
        coordinator.etcd.prefix = "a/"  (c.json:5:96)
        keys.tickets.0.id = 2  (c.json:7:28)
        keys.tickets.0.key.env = "TICKETS"  (c.json:7:46)
        keys.tickets.1.id = 1  (c.json:7:66)
        keys.tickets.1.key = "***"  (c.json:7:76)
        keys.mesh.file = "mesh.key"  (c.json:8:26)
        keys.console = "***"  (c.json:9:20)
        roles.talk.entities.0 = "chat"  (c.json:13:37)
        roles.talk.console = true  (c.json:13:57)
        processes.gate.roles.0 = "gate"  (c.json:16:23)
        processes.gate.roles.1 = "web"  (c.json:16:31)
        processes.gate.count = 3  (c.json:16:48)
        processes.gate.zone = "east"  (c.json:16:59)
        processes.gate.gate_workers = 2  (c.json:16:83)
        processes.gate.listen.clients = "0.0.0.0:7000"  (c.json:18:28)
        processes.gate.listen.mesh = "10.0.0.1:7100"  (c.json:18:52)
        processes.gate.listen.origins.0 = "https://arena.example"  (c.json:19:29)
        options.gate.heartbeat = "10s"  (--set options.gate.heartbeat)
        options.gate.idle_max = "1min"  (default)
        options.gate.streams_max = 10  (c.json:21:49)
        options.gate.bytes = {"per_second": "1KiB", "burst": "4KiB"}  (c.json:12:73)
        options.host.mailbox_max = 99  (--set options.host.mailbox_max)
        options.log.levels = "debug"  (c.json:11:82)"#]]
    .assert_eq(&shown.join("\n"));
    assert_eq!(gate.options.gate.heartbeat.as_secs(), 10);
    assert_eq!(gate.options.gate.streams_max, 10, "the process lies over the cluster");
    assert_eq!(gate.options.gate.bytes, gate::Rate::new(1024, 4096), "the zone over the file");
    assert_eq!(gate.options.host.mailbox_max, 99);
    assert_eq!(gate.options.mesh.cluster, "arena");
    let node = config.process("node-a").expect("there");
    assert_eq!(node.workers, Some(5));
    assert_eq!(node.options.gate.streams_max, 9);
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_the_nearest_name() {
    errors(
        r#"{
            "clutser": "x", "cluster": "a b",
            "options": {"gaet": {}, "gate": {"heartbeet": "6s", "streams_max": "many", "idle_max": 60}},
            "zones": {"east": {"title": "East", "options": {"mesh": {"links_max": 0}}}},
            "processes": {
                "one": {"roles": ["gate", "node"], "wokers": 3, "zone": "eats",
                    "listen": {"clients": "localhost:80", "origins": ["game.example", 3]},
                    "options": {"session": {"second_login": "kick"}, "gate": {"messages": {"per_second": -1}}}},
                "two words": {"roles": [], "workers": 256, "weight": 0, "count": 0},
                "three": {"listen": {}},
                "four": 4,
            },
        }"#,
        expect![[r#"
            c.json:2:13: clutser: unknown key; did you mean "cluster"?
            c.json:2:40: cluster: "a b" is no name: 1 to 64 letters, digits, - and _
            c.json:3:25: options.gaet: unknown key; did you mean "gate"?
            c.json:3:46: options.gate.heartbeet: unknown key; did you mean "heartbeat"?
            c.json:3:80: options.gate.streams_max: "many" where a whole number should be
            c.json:3:100: options.gate.idle_max: 60 where a time with its unit, such as "4s", "250ms", "5min" or "1h" should be
            c.json:4:32: zones.east.title: unknown key; known are options
            c.json:4:83: zones.east.options.mesh.links_max: 0 is not within 1 to 1000000
            c.json:6:17: processes.one: listen.mesh is missing: the other processes could not reach it
            c.json:6:24: processes.one: the role "gate" takes in clients: listen.clients is missing
            c.json:6:52: processes.one.wokers: unknown key; did you mean "workers"?
            c.json:6:73: processes.one.zone: unknown zone "eats"; did you mean "east"?
            c.json:7:43: processes.one.listen.clients: "localhost:80" is no address: write "10.0.0.1:7000", "[::1]:7000" or a port; names are not looked up
            c.json:7:71: processes.one.listen.origins.0: "game.example" is no origin: write "https://game.example", without a path
            c.json:7:87: processes.one.listen.origins.1: 3 where a text in "quotes" should be
            c.json:8:61: options.session.second_login: "kick" is unknown; known are kick_first, refuse
            c.json:8:91: options.gate.messages: the field "burst" is missing
            c.json:8:106: options.gate.messages.per_second: -1 is not within 0 to 4294967295
            c.json:9:17: processes.two words: listen.mesh is missing: the other processes could not reach it
            c.json:9:30: processes.two words: "two words" is no name: 1 to 64 letters, digits, - and _
            c.json:9:40: processes.two words.roles: a process without a role does nothing
            c.json:9:55: processes.two words.workers: 256 is not within 1 to 255
            c.json:9:70: processes.two words.weight: 0 is not within 1 to 64
            c.json:9:82: processes.two words.count: 0 is not within 1 to 1000
            c.json:10:17: processes.three: listen.mesh is missing: the other processes could not reach it
            c.json:10:26: processes.three: the field "roles" is missing
            c.json:11:25: processes.four: 4 where an object in { } should be"#]],
    );
}

/// Roles used to be fixed in the framework; now an unknown one must still be refused.
#[test]
fn unknown_roles_missing_fields_and_port_clashes_are_refused() {
    errors(
        r#"{
            "cluster": "c",
            "roles": {"gate": {"gate": true}, "speak": {"entities": ["chta"]}, "both": {"gate": 1}},
            "processes": {
                "a": {"roles": ["gate", "node"], "listen": {"clients": 7000, "mesh": 7001}},
                "b": {"roles": ["gaet"], "listen": {"clients": 7000, "mesh": 7002}},
                "c": {"roles": ["gate"], "listen": {"clients": "0.0.0.0:7000", "mesh": 7002}},
                "d": {"roles": ["web"], "listen": {"mesh": "[::1]:7001"}},
                "e": {"roles": ["gate"], "listen": {"mesh": "10.0.0.1:7003"}},
                "f": {"roles": ["battle"], "listen": {"clients": 7007, "web": 7008}, "gate_workers": 2},
                "g": {"roles": ["node", "node", "zebra"]},
                "h": {"roles": ["gate"], "count": 2, "listen": {"clients": [65535, 7010], "mesh": 0}},
            },
        }"#,
        expect![[r#"
            c.json:3:31: roles.gate: the game has a role "gate": choose another name
            c.json:3:70: roles.speak.entities.0: unknown kind "chta"; did you mean "chat"?
            c.json:3:97: roles.both.gate: 1 where true or false should be
            c.json:6:33: processes.b.roles.0: unknown role "gaet"; did you mean "gate"?
            c.json:6:64: processes.b.listen.clients: port clash: 127.0.0.1:7000 (role none) is 127.0.0.1:7000 of process "a" (listen.clients, role gate, node) at c.json:5:72
            c.json:7:64: processes.c.listen.clients: port clash: 0.0.0.0:7000 (role gate) is 127.0.0.1:7000 of process "a" (listen.clients, role gate, node) at c.json:5:72
            c.json:7:88: processes.c.listen.mesh: port clash: 127.0.0.1:7002 (role gate) is 127.0.0.1:7002 of process "b" (listen.mesh, role none) at c.json:6:78
            c.json:8:22: processes.d: the role "web" serves HTTP: listen.web is missing
            c.json:9:17: processes.e: 10.0.0.1:7003 can be reached from other machines: keys.mesh is missing
            c.json:9:22: processes.e: the role "gate" takes in clients: listen.clients is missing
            c.json:10:17: processes.f: listen.mesh is missing: the other processes could not reach it
            c.json:10:22: processes.f: listen.clients is given, but no role of this process takes in clients
            c.json:10:22: processes.f: listen.web or listen.console is given, but no role of this process serves HTTP
            c.json:10:22: processes.f: gate_workers is given, but no role of this process takes in clients
            c.json:11:17: processes.g: listen.mesh is missing: the other processes could not reach it
            c.json:11:41: processes.g.roles.1: the role "node" is given twice
            c.json:11:49: processes.g.roles.2: unknown role "zebra"; the game has battle, both, console, data, gate, node, speak, watcher, web
            c.json:12:22: processes.h: 2 copies go beyond port 65535"#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {
            "a": {"roles": ["gate"], "count": 1, "listen": {"clients": 1, "mesh": 2}},
            "a-1": {"roles": ["battle"], "listen": {"mesh": 3}},
            "x": {"roles": ["battle"], "host": "other", "count": 1, "listen": {"mesh": "0.0.0.0:2"}}}}"#,
        expect![[r#"
            c.json:2:13: coordinator: processes on several hosts cannot share an embedded one: name members of etcd, {"etcd": {"endpoints": [..]}}
            c.json:2:13: keys: keys.tickets is missing: processes on several hosts cannot share made ones
            c.json:2:13: processes.a: takes in clients, but no process of the cluster is home to sessions
            c.json:3:13: processes.a-1: a process called "a-1" is there already
            c.json:4:13: processes.x: 0.0.0.0:2 can be reached from other machines: keys.mesh is missing
            c.json:4:13: processes.x: nobody can dial 0.0.0.0:2: listen.advertise is missing"#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {}}"#,
        expect!["c.json:1:18: processes: a cluster has at least one process"],
    );
    errors(r#"[]"#, expect!["c.json:1:1: a list where the object of a cluster file should be"]);
    errors(
        r#"{"cluster": "c", "processes": {"#,
        expect!["c.json:1:32: the file ends inside the object begun at 1:31"],
    );
}

#[test]
fn clients_pages_and_console_may_share_a_port() {
    let config = read(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["gate", "node", "web", "console"],
            "listen": {"clients": 7000, "web": 7000, "console": "127.0.0.1:7000"}}}}"#,
    );
    assert!(config.is_ok(), "{config:?}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "options": {
            "gate": {"frame_bytes_max": "1MiB", "output_bytes_thin": "1MiB"},
            "mesh": {"queue_bytes_hard": "4MiB"},
            "session": {"body_bytes_max": "2MiB"},
            "store": {"beat": "5s", "takeover_after": "4s"}}}"#,
        expect![[r#"
            c.json:2:41: options.gate.frame_bytes_max: must leave 1KiB for the headers of a link below options.mesh.frame_bytes_max
            c.json:2:70: options.gate.output_bytes_thin: must not exceed options.gate.output_bytes_max
            c.json:3:42: options.mesh.queue_bytes_soft: must be below, so that replies find room, options.mesh.queue_bytes_hard
            c.json:4:43: options.session.body_bytes_max: must leave 1KiB for the headers of a link below options.mesh.frame_bytes_max
            c.json:5:31: options.store.beat: must be below, or every node parks at once, options.store.park_after
            c.json:5:55: options.store.park_after: must be below, or two nodes act for one entity, options.store.takeover_after"#]],
    );
}

#[test]
fn a_store_on_a_server_is_named_without_its_password() {
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
            "postgres": "postgres://game:hunter2@db/game", "mysql": {"password": {"env": "P"}}}}"#,
        expect![[r#"
            c.json:2:25: store.postgres: no password in the address: give it as `password`
            c.json:2:69: store.mysql: the field "url" is missing"#]],
    );
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
        "postgres": {"url": "postgres://game@a,b/game", "password": "hunter2", "accept_loss": true}}}"#;
    let config = Config::from_input(&Input::of_text("c.json", text), &roles()).expect("right");
    let effective = config.effective(&config.processes[0]);
    let shown = format!("{config:?}{effective:?}");
    assert!(!shown.contains("hunter2"));
    let StorePlace::Postgres(server) = &config.processes[0].store else { panic!("{config:?}") };
    assert_eq!(server.url, "postgres://game@a,b/game");
    assert!(server.accept_loss);
    assert_eq!(server.password(&Vault::system()), Ok(Some("hunter2".to_owned())));
}

#[test]
fn f14_data_processes_are_named_by_their_role() {
    let text = r#"{"cluster": "c", "keys": {"mesh": "abcd"}, "processes": {
        "node": {"roles": ["node"], "listen": {"mesh": 0}},
        "data": {"roles": ["data"], "count": 2, "listen": {"data": "0.0.0.0:7500", "advertise": "10.0.0.1:7000"}}}}"#;
    let text = text.replace("abcd", &"ab".repeat(32));
    let config = Config::from_input(&Input::of_text("c.json", &text), &roles()).expect("right");
    let at = |name: &str| {
        let process = config.process(name).expect("it is there");
        process.data_processes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(at("node"), ["10.0.0.1:7500", "10.0.0.1:7501"]);
    assert_eq!((at("data-1").len(), at("data-2").len()), (0, 0));
    assert!(config.process("data-1").is_some_and(|process| process.shares_stores));
    errors(
        r#"{"cluster": "c", "processes": {
            "a": {"roles": ["node"], "listen": {"mesh": 0, "data": 7500}},
            "b": {"roles": ["data"]},
            "d": {"roles": ["data"], "listen": {"data": 0}},
            "e": {"roles": ["data"], "listen": {"data": "10.0.0.1:7500"}},
            "f": {"roles": ["data"], "listen": {"data": "0.0.0.0:7501"}}}}"#,
        expect![[r#"
            c.json:2:18: processes.a: listen.data is given, but no role of this process stands in front of the stores
            c.json:3:13: processes.b: listen.mesh is missing: the other processes could not reach it
            c.json:3:18: processes.b: a role stands in front of the stores: listen.data is missing
            c.json:4:57: processes.d.listen.data: the other processes have to know the port
            c.json:5:13: processes.e: 10.0.0.1:7500 can be reached from other machines: keys.mesh is missing
            c.json:6:13: processes.f: 0.0.0.0:7501 can be reached from other machines: keys.mesh is missing
            c.json:6:13: processes.f: nobody can dial 0.0.0.0:7501: listen.advertise is missing"#]],
    );
}

#[test]
fn f20_watchers_are_named_by_their_role_and_say_whom_they_promote() {
    let text = r#"{"cluster": "c", "processes": {
            "node": {"roles": ["node"], "listen": {"mesh": 0}},
            "watch": {"roles": ["watcher"], "count": 3}},
        "store": {"postgres": {"url": "postgres://game@a,b:7/game", "promote": ["b:7", "a"]}},
        "stores": {"accounts": {"shards": {
            "east": {"redis": {"url": "redis-sentinel://c/main", "accept_loss": true, "promote": true}},
            "west": {"embedded": "west"}}}}}"#;
    let config = Config::from_input(&Input::of_text("c.json", text), &roles()).expect("right");
    let watcher = config.process("watch-2").expect("it is there");
    let groups = watcher.groups(None).into_iter();
    let groups: Vec<_> =
        groups.map(|group| (group.label, group.server.promote.join(" "))).collect();
    let named = |label: &str, promote: &str| (label.to_owned(), promote.to_owned());
    assert_eq!(groups, [named("store", "b:7 a:5432"), named("stores.accounts.shards.east", "")]);
    assert!(config.processes.iter().all(|process| process.is_watched));
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
            "mysql": {"url": "mysql://a,b/game", "promote": ["a", "a:3306", "b:3307", 7]}}}"#,
        expect![[r#"
            c.json:1:32: processes.a: store says which server to promote, but no process has the role `watcher` to see to it
            c.json:2:67: store.mysql.promote.1: the server "a:3306" is given twice
            c.json:2:77: store.mysql.promote.2: unknown server "b:3307"; did you mean "b:3306"?
            c.json:2:87: store.mysql.promote.3: 7 where a text in "quotes" should be"#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {"w": {"roles": ["watcher"]}, "x": {"roles": ["watcher"],
                "options": {"watcher": {"quorum": 0, "ping_every": "5s"}}}},
            "stores": {
                "p": {"postgres": {"url": "postgres://a/game", "promote": ["a"]}},
                "r": {"redis": {"url": "redis://a", "promote": true}},
                "m": {"mongodb": {"url": "mongodb://a,b/?replicaSet=r", "promote": ["a"]}}}}"#,
        expect![[r#"
            c.json:2:51: options.watcher.quorum: 0 is not within 1 to 1000
            c.json:2:68: options.watcher.ping_every: must be below, or every server is down at once, options.watcher.down_after
            c.json:4:75: stores.p.postgres.promote: `url` names one server: name those that may take its place as well
            c.json:5:64: stores.r.redis.promote: a Redis without sentinels has no other server
            c.json:6:84: stores.m.mongodb.promote: the members of a replica set elect their primary themselves"#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {"w": {"roles": ["watcher"]}, "n": {"roles": ["node"], "listen": {"mesh": 0}}}}"#,
        expect![[r#"
            c.json:1:32: processes.w: a role watches the servers of stores, but no store has several
            c.json:1:32: processes.w: 2 watchers must agree (options.watcher.quorum), but only 1 have such a role"#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {"n": {"roles": ["node"]}},
            "store": {"mysql": {"url": "mysql://a,b/game", "promote": ["b"]}}}"#,
        expect![
            "c.json:1:32: processes.n: store says which server to promote, but no process has the role `watcher` to see to it"
        ],
    );
}

#[test]
fn f22_followers_are_named_beside_the_server() {
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
        "postgres": {"url": "postgres://game@a/game", "followers": ["postgres://game@b/game"]}}}"#;
    let config = Config::from_input(&Input::of_text("c.json", text), &roles()).expect("right");
    let StorePlace::Postgres(server) = &config.processes[0].store else { panic!("{config:?}") };
    assert_eq!(server.followers, ["postgres://game@b/game"]);
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
            "mysql": {"url": "mysql://a/game", "followers": ["mysql://game:hunter2@b/game", 7]}}}"#,
        expect![[r#"
            c.json:2:62: store.mysql.followers.0: no password in the address: give it as `password`
            c.json:2:93: store.mysql.followers.1: 7 where a text in "quotes" should be"#]],
    );
}

#[test]
fn f3_stores_beside_the_default_one_have_names() {
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {"sqlite": "e.sqlite"}, "stores": {
            "World": {"memory": true}, "west": {"sqlit": "w"}, "twin": {"sqlite": "e.sqlite"}}}"#,
        expect![[r#"
            c.json:1:32: processes.a: the store "twin" is its default store as well
            c.json:2:22: stores.World: a store's name has 1 to 32 letters a-z, digits and hyphens
            c.json:2:48: stores.west: name the store: {"embedded": "path"}
            c.json:2:49: stores.west.sqlit: unknown key; did you mean "sqlite"?"#]],
    );
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "stores": {
        "accounts": {"embedded": "a.store"},
        "world": {"postgres": {"url": "postgres://game@db/game", "password": "hunter2"}}}}"#;
    let config = Config::from_input(&Input::of_text("c.json", text), &roles()).expect("right");
    let stores = &config.processes[0].stores;
    assert_eq!(
        stores.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["accounts", "world"]
    );
    assert_eq!(stores[0].1, StorePlace::Embedded("a.store".into()));
    let effective = config.effective(&config.processes[0]);
    assert!(!format!("{config:?}{effective:?}").contains("hunter2"));
}

#[test]
fn f17_shards_are_named_in_the_cluster_file() {
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {"shards": {
            "east": {"sqlite": "e.sqlite"}, "West": {"sqlit": "w"}, "north": {"sqlite": "e.sqlite"}}}}"#,
        expect![[r#"
            c.json:2:53: store.shards.West: a shard's name has 1 to 32 letters a-z, digits and hyphens
            c.json:2:53: store.shards.West: name the store: {"embedded": "path"}
            c.json:2:54: store.shards.West.sqlit: unknown key; did you mean "sqlite"?
            c.json:2:78: store.shards.north: it is the same store as shard "east""#]],
    );
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {
            "embedded": "one", "shards": {"a": {"shards": {"b": {"memory": true}}}}}}"#,
        expect![[r#"
            c.json:1:68: store: a process has one store: name only one
            c.json:2:48: store.shards.a: a shard has no shards"#]],
    );
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {"shards": {
        "a": {"embedded": "a.store"},
        "b": {"postgres": {"url": "postgres://game@db/game", "password": "hunter2"}}}}}"#;
    let config = Config::from_input(&Input::of_text("c.json", text), &roles()).expect("right");
    let StorePlace::Shards(shards) = &config.processes[0].store else { panic!("{config:?}") };
    assert_eq!(shards.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(shards[0].1, StorePlace::Embedded("a.store".into()));
    assert!(shards[0].1.exclusive_file().is_some() && shards[1].1.exclusive_file().is_none());
    let effective = config.effective(&config.processes[0]);
    assert!(!format!("{config:?}{effective:?}").contains("hunter2"));
}

#[test]
fn wrong_settings_are_refused() {
    let mut input = Input::of_text("c.json", CLUSTER);
    input.environment = vec![("MAINSTAY_OPTIONS__GATE__HEARTBEET".into(), "9s".into())];
    input.settings = vec!["options.gate".into(), "options.host.batch=0".into(), "cluster=5".into()];
    let error = Config::from_input(&input, &roles()).expect_err("wrong");
    expect![[r#"
        --set cluster: cluster: 5 where a text in "quotes" should be
        --set options.gate: write path.of.keys=value
        --set options.host.batch: options.host.batch: 0 is not within 1 to 65536
        environment MAINSTAY_OPTIONS__GATE__HEARTBEET: options.gate.heartbeet: unknown key; did you mean "heartbeat"?"#]].assert_eq(&error.to_string());
}

#[test]
fn without_a_file_one_process_has_every_role_on_loopback() {
    let config = Config::from_input(&Input::default(), &roles()).expect("valid");
    let process = config.choose(None).expect("one");
    assert_eq!(process.roles, ["battle", "console", "gate", "node", "web"]);
    assert_eq!(process.clients, ["127.0.0.1:7000".parse().expect("an address")]);
    assert_eq!(process.runs.entities, Kinds::All);
    let settings = vec!["processes.local.listen.clients=0".into()];
    let input = Input { settings, ..Input::default() };
    let config = Config::from_input(&input, &roles()).expect("valid");
    assert_eq!(config.processes[0].clients[0].port(), 0);
    // A whole game in a single process without a gate is a valid layout.
    let mut roles = Roles::with_kinds(["world"]);
    roles.add("world", Role::new().all_entities());
    let config = Config::from_input(&Input::default(), &roles).expect("valid");
    assert!(config.processes[0].clients.is_empty());
}

fn vault() -> Vault {
    let key = "ff".repeat(32);
    Vault::new(
        move |name| match name {
            "TICKETS" => Some(format!(" {key}\n")),
            "SHORT" => Some("abc".to_string()),
            "EMPTY" => Some("  ".to_string()),
            _ => None,
        },
        |path| match path.to_str() {
            Some("/etc/mesh.key") => Ok("ee".repeat(32)),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        },
    )
}

#[test]
fn keys_come_by_reference_and_are_never_shown() {
    let input = Input::of_text("/etc/c.json", CLUSTER);
    let config = Config::from_input(&input, &roles()).expect("valid");
    assert_eq!(config.data, Path::new("/etc/state"));
    let mut random = env::Random::from_seed(1);
    let keys = config.keys.resolve(&vault(), &config.data, &mut random).expect("all there");
    assert_eq!(keys.tickets[0], (2, [0xff; 32]));
    assert_eq!(keys.tickets[1].0, 1);
    assert_eq!(keys.mesh, Some([0xee; 32]));
    assert_eq!(keys.console.as_deref(), Some("open sesame"));
    expect![[r#"
        Keys { tickets: [2, 1], mesh: true, console: true }
        KeyRefs { tickets: [(2, Secret(the environment variable TICKETS)), (1, Secret(the text))], mesh: Some(Secret(the file /etc/mesh.key)), console: Some(Secret(the text)), developer: None }"#]].assert_eq(&format!("{keys:?}\n{:?}", config.keys));
    let effective = config.effective(&config.processes[0]);
    let shown: Vec<String> = effective.iter().map(Effective::to_string).collect();
    let shown = shown.join("\n");
    assert!(!shown.contains("sesame") && !shown.contains("abcdef"), "{shown}");
}

#[test]
fn keys_that_cannot_be_found_are_reported_with_their_place() {
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "keys": {
        "tickets": [{"id": 1, "key": {"env": "NOBODY"}}, {"id": 2, "key": {"env": "SHORT"}},
            {"id": 3, "key": {"file": "none.key"}}],
        "mesh": {"env": "EMPTY"}}}"#;
    let config = read(text).expect("valid");
    let mut random = env::Random::from_seed(1);
    let problems = config.keys.resolve(&vault(), &config.data, &mut random).expect_err("missing");
    expect![[r#"
        c.json:2:38: keys.tickets.0.key: the environment variable NOBODY is not set
        c.json:2:75: keys.tickets.1.key: the environment variable SHORT: a key is 64 hexadecimal digits (openssl rand -hex 32)
        c.json:3:30: keys.tickets.2.key: the file none.key entity not found
        c.json:4:17: keys.mesh: the environment variable EMPTY is empty"#]].assert_eq(&ConfigError::Invalid(problems).to_string());
    errors(
        r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "keys": {
            "tickets": [{"id": 1, "key": "short"}, {"id": 1, "key": 5}, {"id": 256}],
            "mesh": {"env": "A", "file": "B"}, "console": {"emv": "A"}}}"#,
        expect![[r#"
            c.json:2:25: keys.tickets.0: a key is 64 hexadecimal digits (openssl rand -hex 32)
            c.json:2:69: keys.tickets.1.key: a secret is {"env": "NAME"}, {"file": "path"} or a text
            c.json:2:73: keys.tickets.2: the field "key" is missing
            c.json:2:80: keys.tickets.2.id: 256 is not within 0 to 255
            c.json:3:21: keys.mesh: a secret is either {"env": "NAME"} or {"file": "path"}
            c.json:3:59: keys.console: a secret is either {"env": "NAME"} or {"file": "path"}
            c.json:3:60: keys.console.emv: unknown key; did you mean "env"?"#]],
    );
}

#[test]
fn made_keys_are_kept_and_shared() {
    let folder = std::env::temp_dir().join(format!("mainstay-keys-{}", std::process::id()));
    let data = folder.join("deep");
    let both = std::thread::scope(|scope| {
        let make = |seed| {
            let data = &data;
            scope.spawn(move || Keys::kept(data, &mut env::Random::from_seed(seed)))
        };
        [make(1), make(2)].map(|thread| thread.join().expect("no panic").expect("kept"))
    });
    assert!(both[0] == both[1], "two processes that start at once get the same keys");
    let again = KeyRefs::default();
    let again = again.resolve(&vault(), &data, &mut env::Random::from_seed(3)).expect("kept");
    assert!(again == both[0] && again.mesh.is_some());
    let names: Vec<_> = std::fs::read_dir(&data).expect("there").collect();
    assert_eq!(names.len(), 1, "no drafts are left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(data.join("keys.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    std::fs::write(data.join("keys.json"), "{}").expect("writes");
    assert!(Keys::kept(&data, &mut env::Random::from_seed(1)).is_err());
    std::fs::remove_dir_all(&folder).expect("removes");
}

/// A flipped digit gave other keys: all passes and resume tokens were refused, and nothing said why.
#[test]
fn damaged_keys_are_refused_and_never_other_keys() {
    let folder = std::env::temp_dir().join(format!("mainstay-torn-keys-{}", std::process::id()));
    let kept = |seed| Keys::kept(&folder, &mut env::Random::from_seed(seed));
    let keys = kept(1).expect("made");
    let file = folder.join("keys.json");
    let whole = std::fs::read(&file).expect("there");
    let cuts = (0..whole.len()).map(|at| whole[..at].to_vec());
    let flips = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let mut refused = 0;
    for bytes in cuts.chain(flips) {
        std::fs::write(&file, &bytes).expect("writes");
        match kept(2) {
            Ok(seen) => assert!(seen == keys, "other keys: {}", String::from_utf8_lossy(&bytes)),
            Err(error) => {
                refused += 1;
                assert!(error.kind() == std::io::ErrorKind::InvalidData, "{error}");
            }
        }
    }
    assert!(refused > whole.len());
    std::fs::remove_dir_all(&folder).expect("removes");
}

#[test]
fn files_are_read_and_missing_ones_named() {
    let path = std::env::temp_dir().join(format!("mainstay-check-{}.json", std::process::id()));
    std::fs::write(&path, CLUSTER).expect("writes");
    assert_eq!(Config::check(&path, &roles()).expect("valid").processes.len(), 5);
    std::fs::remove_file(&path).expect("removes");
    let error = Config::check(&path, &roles()).expect_err("gone").to_string();
    assert!(error.starts_with("cannot read the cluster file"), "{error}");
}

#[test]
fn differences_between_two_files_are_shown() {
    let old = read(CLUSTER).expect("valid");
    let text = CLUSTER
        .replace("\"weight\": 2", "\"weight\": 3")
        .replace("open sesame", "closed sesame")
        .replace("\"heartbeat\": \"7s\", ", "")
        .replace("\"count\": 3,", "\"count\": 3, \"workers\": 1,")
        .replace("\"NET\": \"10.0.0\"", "\"NET\": \"10.0.1\"");
    let new = Config::from_input(&Input::of_text("d.json", &text), &roles()).expect("valid");
    let shown: Vec<String> = difference(&old, &new).iter().map(Change::to_string).collect();
    expect![[r#"
        ~ keys.console: "***" (c.json:9:20) -> "***" (d.json:9:20)
        - options.gate.heartbeat: "7s" (c.json:11:39)
        ~ processes.gate.listen.mesh: "10.0.0.1:7100" (c.json:18:52) -> "10.0.1.1:7100" (d.json:18:52)
        + processes.gate.workers: 1 (d.json:16:62)
        ~ processes.node-a.listen.advertise: "10.0.0.2:7100" (c.json:24:61) -> "10.0.1.2:7100" (d.json:24:61)
        ~ processes.node-a.weight: 2 (c.json:23:76) -> 3 (d.json:23:76)
        ~ processes.talk.listen.mesh: "10.0.0.2:7101" (c.json:26:90) -> "10.0.1.2:7101" (d.json:26:90)"#]].assert_eq(&shown.join("\n"));
    assert_eq!(difference(&old, &old), []);
}

#[test]
fn every_option_holds_its_range_and_is_described() {
    for group in groups::groups() {
        assert_eq!(group.misfits(), [""; 0], "options of {} outside their range", group.name());
        let mut names: Vec<_> = group.describe().iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
    let text = Config::describe();
    for line in [
        "options.gate: Limits and waits of one gate worker.",
        "  frame_bytes_max: bytes, 256B to 16MiB; default \"64KiB\"",
        "  call_wait: time, 1ms to 1d; default \"4s\"",
        "cluster: name; default required",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// The starting values of the design.
#[test]
fn defaults_are_the_starting_values() {
    let config =
        read(r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}}"#).expect("valid");
    let effective = config.effective(&config.processes[0]);
    let value = |path: &str| {
        let found = effective.iter().find(|value| value.path == format!("options.{path}"));
        found.map(|value| value.value.clone()).unwrap_or_default()
    };
    for (path, wanted) in [
        ("host.call_wait", "\"4s\""),
        ("mesh.connect_wait", "\"3s\""),
        ("host.mailbox_max", "1024"),
        ("host.worker_queue_max", "65536"),
        ("gate.frame_bytes_before_login", "\"4KiB\""),
        ("gate.frame_bytes_max", "\"64KiB\""),
        ("mesh.frame_bytes_max", "\"1MiB\""),
        ("gate.handshake_max", "\"5s\""),
        ("gate.heartbeat", "\"6s\""),
        ("gate.heartbeats_missed_max", "3"),
        ("session.resume_window", "\"1min\""),
        ("session.held_frames_max", "256"),
        ("session.held_bytes_max", "\"64KiB\""),
        ("registry.lease", "\"15s\""),
        ("store.beat", "\"1s\""),
        ("store.park_after", "\"5s\""),
        ("store.takeover_after", "\"6s\""),
        ("store.write_behind", "\"1s\""),
        ("host.slow_handler", "\"50ms\""),
        ("drain.node_max", "\"30s\""),
        ("drain.room_max", "\"30min\""),
    ] {
        assert_eq!(value(path), wanted, "{path}");
    }
}

#[test]
fn shown_values_read_back() {
    let config = read(CLUSTER).expect("valid");
    let gate = &config.processes[0];
    let settings: Vec<String> = config
        .effective(gate)
        .iter()
        .filter(|value| value.path.starts_with("options."))
        .map(|value| format!("{}={}", value.path, value.value))
        .collect();
    let input = Input { settings, ..Input::default() };
    let again = Config::from_input(&input, &roles()).expect("what we wrote");
    let shown = |config: &Config| -> Vec<(String, String)> {
        let all = config.effective(&config.processes[0]).into_iter();
        let all = all.filter(|value| value.path.starts_with("options."));
        all.map(|value| (value.path, value.value)).collect()
    };
    assert_eq!(shown(&again), shown(&config));
}

#[test]
fn the_day_of_the_game_changes_where_and_when_the_file_says() {
    let mut input = Input::of_text("c.json", CLUSTER);
    input.settings = vec!["options.host.daily=04:30 Asia/Shanghai".to_string()];
    let config = Config::from_input(&input, &roles()).expect("valid");
    let process = config.process("node-a").expect("there");
    assert_eq!(process.options.host.daily.to_string(), "daily 04:30 Asia/Shanghai");
    for wrong in ["25:00 UTC", "05:00 Mars/Olympus", "noon"] {
        input.settings = vec![format!("options.host.daily={wrong}")];
        let error = Config::from_input(&input, &roles()).expect_err("no such time").to_string();
        assert!(error.contains("options.host.daily"), "{error}");
    }
}

#[test]
fn a_bus_is_read_and_what_is_wrong_with_one_is_said() {
    let with = |bus: &str| {
        format!(r#"{{"cluster": "a", "bus": {bus}, "processes": {{"n": {{"roles": ["node"]}}}}}}"#)
    };
    let bus = |text: &str| read(&with(text)).expect("valid").processes[0].bus.clone();
    assert_eq!(bus("\"embedded\""), BusPlace::Embedded);
    let BusPlace::Nats(nats) = bus(r#"{"nats": "nats://10.0.0.1:4222"}"#) else {
        panic!("no NATS")
    };
    assert_eq!((nats.prefix.as_str(), nats.replicas), ("a", 1));
    let text = r#"{"nats": {"url": ["nats://g@h:1", "nats://g@i:1"], "password": "p@/1", "prefix": "b", "replicas": 3}}"#;
    let BusPlace::Nats(nats) = bus(text) else { panic!("no NATS") };
    assert_eq!((nats.prefix.as_str(), nats.replicas), ("b", 3));
    let addresses = nats.addresses(&Vault::system()).unwrap();
    assert_eq!(addresses, ["nats://g:p%40%2F1@h:1", "nats://g:p%40%2F1@i:1"]);
    let config = read(&with(text)).expect("valid");
    let shown = config.effective(&config.processes[0]);
    assert!(shown.iter().any(|value| value.path.starts_with("bus.nats.password")));
    assert!(shown.iter().all(|value| !value.value.contains("p@/1")), "{shown:?}");
    let wrong = [
        ("\"carrier\"", "no bus"),
        ("{}", "name the bus"),
        (r#"{"nats": "amqp://h:1"}"#, "begins with nats:// or tls://"),
        (r#"{"nats": "nats://u:p@h:1"}"#, "no password in the address"),
        (r#"{"nats": "nats://h:1", "rabbitmq": "amqp://h:1"}"#, "name only one"),
        (r#"{"rabbitmq": {"url": "amqp://h:1", "replicas": 3}}"#, "replicas"),
        (r#"{"nats": {"url": []}}"#, "at least one server"),
    ];
    for (text, part) in wrong {
        let said = read(&with(text)).expect_err(text).to_string();
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn d17_credentials_of_etcd_are_read_and_what_is_wrong_with_them_is_said() {
    let with = |etcd: &str| {
        format!(
            r#"{{"cluster": "a", "coordinator": {{"etcd": {etcd}}}, "processes": {{"n": {{"roles": ["node"]}}}}}}"#
        )
    };
    let text = r#"{"endpoints": ["https://h:1", "https://i:1"], "user": "game", "password": "p@/1",
        "authorities": "ca.pem", "certificate": "game.pem", "key": "/keys/game.key"}"#;
    let config = read(&with(text)).expect("valid");
    let process = &config.processes[0];
    let CoordinatorPlace::Etcd(etcd) = &process.coordinator else { panic!("no etcd") };
    assert_eq!(etcd.user.as_deref(), Some("game"));
    assert_eq!(etcd.password(&Vault::system()).unwrap().as_deref(), Some("p@/1"));
    assert_eq!(etcd.authorities.as_deref(), Some(Path::new("ca.pem")));
    assert_eq!(etcd.certificate, Some(("game.pem".into(), "/keys/game.key".into())));
    let shown = config.effective(process);
    assert!(shown.iter().any(|value| value.path.starts_with("coordinator.etcd.password")));
    assert!(shown.iter().all(|value| !value.value.contains("p@/1")), "{shown:?}");
    let missing =
        r#"{"endpoints": ["http://h:1"], "user": "g", "password": {"env": "MAINSTAY_NO_SUCH"}}"#;
    let config = read(&with(missing)).expect("valid");
    let CoordinatorPlace::Etcd(etcd) = &config.processes[0].coordinator else { panic!("no etcd") };
    let told = etcd.password(&Vault::system()).unwrap_err();
    assert_eq!(told, "the environment variable MAINSTAY_NO_SUCH is not set");
    let wrong = [
        (r#"{"endpoints": ["http://h:1"], "user": "game"}"#, "give both or none"),
        (r#"{"endpoints": ["http://h:1"], "password": "p"}"#, "give both or none"),
        (r#"{"endpoints": ["https://h:1"], "certificate": "a.pem"}"#, "give both or none"),
        (
            r#"{"endpoints": ["http://h:1"], "authorities": "a.pem"}"#,
            "write the endpoints as https",
        ),
        (r#"{"endpoints": ["http://h:1", "https://i:1"]}"#, "write all as https"),
        (r#"{"endpoints": ["http://u:p@h:1"]}"#, "give `user` and `password`"),
        (r#"{"endpoints": ["etcd://h:1"]}"#, "is no member of etcd"),
        (r#"{"endpoints": []}"#, "at least one member"),
    ];
    for (text, part) in wrong {
        let said = read(&with(text)).expect_err(text).to_string();
        assert!(said.contains(part), "{text}: {said}");
    }
}

const SHARED: &str = r#"{
    "cluster": "arena",
    "coordinator": {"etcd": {"endpoints": ["http://10.0.0.9:2379"], "prefix": "games/"}},
    "bus": {"nats": {"url": "nats://10.0.0.9:4222", "prefix": "games"}},
    "store": {"postgres": "postgres://game@10.0.0.9/arena_{developer}"},
    "stores": {"hot": {"redis": "redis://10.0.0.9:6379/0?shard={developer}"},
        "cold": {"shards": {"a": {"embedded": "cold/a.store"}, "b": {"sqlite": "cold/b.sqlite"}}}},
    "processes": {"one": {"roles": ["node"], "listen": {"mesh": "127.0.0.1:7100"}},
        "two": {"roles": ["node"], "listen": {"mesh": "127.0.0.1:7101"}}},
}"#;

fn read_of(text: &str, developer: &str) -> Result<Config, ConfigError> {
    let settings = vec![format!("developer={developer}")];
    Config::from_input(&Input { settings, ..Input::of_text("c.json", text) }, &roles())
}

/// All by which a process is known to others, or to itself later.
fn places(text: &str, developer: &str) -> Vec<String> {
    let config = read_of(text, developer).expect("valid");
    let process = &config.processes[0];
    let mut places = vec![config.cluster.clone(), process.options.mesh.cluster.clone()];
    places.push(process.data.display().to_string());
    places.push(format!("{:?}", process.coordinator));
    places.push(format!("{:?}", process.bus));
    places.push(format!("{:?}", process.store));
    places.extend(process.stores.iter().map(|(_, place)| format!("{place:?}")));
    places
}

/// Two who tried something on the same servers called into each other's processes.
#[test]
fn a36_two_developers_share_servers_and_no_name() {
    let (ann, bob) = (places(SHARED, "ann"), places(SHARED, "bob"));
    for (ann, bob) in ann.iter().zip(&bob) {
        assert_ne!(ann, bob);
        assert_eq!(ann.replace("ann", "bob"), *bob);
    }
    expect![[r#"
        arena--ann
        arena--ann
        data/@ann
        Etcd(EtcdPlace { endpoints: ["http://10.0.0.9:2379"], prefix: "games/@ann/", user: None, authorities: None, certificate: None, password: None })
    "#]]
    .assert_eq(&(ann[..4].join("\n") + "\n"));
    assert!(ann[4].contains(r#"prefix: "games--ann""#), "{}", ann[4]);
    assert!(ann[5].contains(r#""postgres://game@10.0.0.9/arena_ann""#), "{}", ann[5]);
    assert!(ann[7].contains("cold/@ann/a.store") && ann[7].contains("cold/@ann/b.sqlite"));
    // What is not said is called after the cluster, or lies in its folder.
    let small = r#"{"cluster": "arena", "processes": {
        "one": {"roles": ["node"], "listen": {"mesh": "127.0.0.1:0"}},
        "two": {"roles": ["node"], "listen": {"mesh": "127.0.0.1:0"}}}}"#;
    let ann = places(small, "ann").join("\n");
    assert!(ann.contains("data/@ann/coordinator") && ann.contains("data/@ann/one.store"), "{ann}");
}

/// A data process of one, at the address that the file gives it, served the processes of the other.
#[test]
fn a36_developers_have_keys_of_their_own() {
    let keys = |developer: &str| {
        let settings = vec![format!("developer={developer}")];
        let input = Input { settings, ..Input::of_text("/etc/c.json", CLUSTER) };
        let config = Config::from_input(&input, &roles()).expect("valid");
        let mut random = env::Random::from_seed(1);
        config.keys.resolve(&vault(), &config.data, &mut random).expect("all there")
    };
    let (ann, bob) = (keys("ann"), keys("bob"));
    assert!(ann == keys("ann"), "the same in each of their processes");
    assert!(ann.data() != bob.data() && ann.mesh != bob.mesh);
    for (ann, bob) in ann.tickets.iter().zip(&bob.tickets) {
        assert!(ann.0 == bob.0 && ann.1 != bob.1);
    }
    // Neither has what the file says itself, which is that of whoever has no name.
    let named = [0xff, 0xee].map(|byte| [byte; 32]);
    for keys in [ann, bob] {
        assert!(!named.contains(&keys.tickets[0].1) && !named.contains(&keys.mesh.unwrap()));
    }
}

#[test]
fn a36_what_developers_would_share_unseen_is_refused() {
    let error = |text: &str, developer| read_of(text, developer).expect_err("wrong").to_string();
    expect![[r#"
        c.json:5:14: store: postgres://game@10.0.0.9/arena has no {developer}: "ann" would share it with others; write it where the name of the database is, or of a Redis as `?shard={developer}`"#]]
    .assert_eq(&error(&SHARED.replace("_{developer}", ""), "ann"));
    expect![[r#"
        c.json:5:14: store: postgres://game@10.0.0.9/arena_{developer} is of a developer: set `developer`, or MAINSTAY_DEVELOPER
        c.json:6:15: stores: redis://10.0.0.9:6379/0?shard={developer} is of a developer: set `developer`, or MAINSTAY_DEVELOPER"#]]
    .assert_eq(&read(SHARED).expect_err("nobody's").to_string());
    expect![[r#"
        --set developer: developer: a developer's name has single hyphens"#]]
    .assert_eq(&error(SHARED, "ann--b"));
    expect![[r#"
        c.json:2:16: cluster: "arena--bob": two hyphens part a cluster from its developer, write one"#]]
    .assert_eq(&error(&SHARED.replace(r#""arena""#, r#""arena--bob""#), "ann"));
}

#[test]
fn a36_a_process_is_of_several_zones_and_channels() {
    let text = r#"{
        "cluster": "arena",
        "zones": {"east": {"options": {"host": {"batch": 7, "mailbox_max": 8}}},
            "west": {"options": {"host": {"batch": 9}}}},
        "channels": ["web", "app"],
        "processes": {
            "both": {"roles": ["node"], "zone": ["east", "west"], "channel": "web",
                "listen": {"mesh": "127.0.0.1:0"}},
            "none": {"roles": ["node"], "listen": {"mesh": "127.0.0.1:0"}},
        },
    }"#;
    let config = read(text).expect("valid");
    let both = config.process("both").unwrap();
    assert_eq!((both.zones.join(" "), both.channels.join(" ")), ("east west".into(), "web".into()));
    let host = &both.options.host;
    assert_eq!((host.batch, host.mailbox_max), (9, 8), "in the order of the process");
    let hosts = |name| {
        let process = config.process(name).unwrap();
        [Scope::Global, Scope::Zone, Scope::Channel].map(|scope| process.hosts(scope))
    };
    assert_eq!((hosts("both"), hosts("none")), ([true; 3], [true, false, false]));
    errors(
        &text
            .replace(r#"["east", "west"]"#, r#"["east", "wets", "east"]"#)
            .replace(r#""web", "app""#, r#""web", "web""#),
        expect![[r#"
            c.json:5:29: channels.1: the channel "web" is given twice
            c.json:7:58: processes.both.zone.1: unknown zone "wets"; did you mean "west"?
            c.json:7:66: processes.both.zone.2: the zone "east" is given twice"#]],
    );
    errors(
        &text
            .replace(r#"["east", "west"]"#, r#"["east", "east"]"#)
            .replace(r#""channel": "web""#, r#""channel": ["wbe"]"#),
        expect![[r#"
            c.json:7:58: processes.both.zone.1: the zone "east" is given twice
            c.json:7:79: processes.both.channel.0: unknown channel "wbe"; did you mean "web"?"#]],
    );
}

/// Names are told apart by their numbers.
#[test]
fn a36_zones_of_one_number_are_refused() {
    let number = |n: u32| Namespace::zone(&format!("z{n}"));
    let mut seen = std::collections::BTreeMap::new();
    let found = (0..).find_map(|n| seen.insert(number(n), n).map(|before| (before, n)));
    let (one, other) = found.expect("there are 2^24 numbers");
    let error = read(&format!(
        r#"{{"cluster": "a", "zones": {{"z{one}": {{}}, "z{other}": {{}}}},
        "processes": {{"one": {{"roles": ["node"]}}}}}}"#
    ));
    let error = error.expect_err("one number").to_string();
    assert!(error.contains(&format!("\"z{other}\" and \"z{one}\" have one number")), "{error}");
}
