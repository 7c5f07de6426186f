use std::time::{Duration, Instant};

use arena::rules::{self, part};
use arena::{Input, Playing, Profile, Purse};
use mainstay::client::{Address, Client, Event, Events, Grant, Options};
use mainstay::prelude::*;
use mainstay::proto::{self, MethodId, SessionId};
use mainstay::scene::{Mirror, ReplicaId};
use mainstay::testkit::method_id;

use crate::command::Server;

/// Longest wait for anything; each ends as soon as it is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest at a server, who collects what lies around.
pub struct Player {
    client: Client,
    events: Events,
    mirror: Mirror,
    me: ReplicaId,
    /// What it was told it owns.
    pub purse: Purse,
    told_at: Instant,
    pub pass: String,
}

fn grant(text: &serde_json::Value) -> Grant {
    let bytes = |name: &str| base64(text[name].as_str().unwrap());
    let session = text["session"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&session[2 * at..2 * at + 2], 16).unwrap();
    Grant {
        ticket: bytes("ticket"),
        secret: bytes("secret").try_into().unwrap(),
        session: SessionId(std::array::from_fn(byte)),
        expires: WallTime(text["expires_ms"].as_u64().unwrap()),
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = (bits << (6 * (4 - four.len()))).to_be_bytes();
        bytes.extend_from_slice(&bits[1..four.len()]);
    }
    bytes
}

impl Player {
    /// Logs in as `name`, or as who was given the pass, without entering an arena.
    pub async fn login(server: &Server, name: &str, pass: Option<&str>) -> Player {
        let (status, text) = server.ticket(name, pass);
        assert_eq!(status, 200, "{text}");
        let mut player = Player::login_with(server.address, &text).await;
        player.purse = player.ask("wallet.purse").await;
        player
    }

    /// Logs in at a gate with what was given for a ticket, and asks for nothing.
    pub async fn login_with(address: std::net::SocketAddr, text: &serde_json::Value) -> Player {
        let options = Options::new(Address::tcp(address.to_string()));
        let (client, events) = Client::connect(options, grant(text)).await.unwrap();
        let pass = text["pass"].as_str().unwrap().to_owned();
        Player {
            client,
            events,
            mirror: Mirror::new(rules::layout()),
            me: ReplicaId(0),
            purse: Purse::default(),
            told_at: Instant::now(),
            pass,
        }
    }

    async fn ask<R: Message>(&self, method: &str) -> R {
        let begun = Instant::now();
        loop {
            // The store may still hold what a killed server had.
            match self.client.request("avatar", method_id(method), &()).await {
                Ok(reply) => return reply,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{method}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks once for its profile: whether it was answered.
    pub async fn is_answered(&self) -> bool {
        self.client.request::<_, Profile>("avatar", method_id("profile"), &()).await.is_ok()
    }

    /// Whether its session has ended.
    pub fn has_ended(&mut self) -> bool {
        std::iter::from_fn(|| self.events.try_next())
            .any(|event| matches!(event, Event::Ended { .. }))
    }

    pub async fn profile(&self) -> Profile {
        self.ask("profile").await
    }

    /// Enters a small arena.
    pub async fn play(&mut self, name: &str) {
        let arguments = (name.to_owned(), 10u32);
        let playing: Playing =
            self.client.request("avatar", MethodId::of("play"), &arguments).await.unwrap();
        self.me = ReplicaId(playing.me);
    }

    /// Walks to what lies around until it owns so much, then stands still until nothing more is told.
    pub async fn collect(&mut self, wanted: u64) {
        let begun = Instant::now();
        let owned = |purse: &Purse| purse.coins + u64::from(purse.stars);
        let quiet = Duration::from_secs(2 * rules::PARCEL_SECONDS);
        while owned(&self.purse) < wanted || self.told_at.elapsed() < quiet {
            assert!(begun.elapsed() < 2 * PATIENCE, "too little was found: {:?}", self.purse);
            while let Some(event) = self.events.try_next() {
                self.hear(&event);
            }
            let (x, y) = if owned(&self.purse) < wanted { self.way() } else { (0, 0) };
            let input = Input { x, y, seen: self.mirror.step(), ..Input::default() };
            let steer = MethodId::of("steer");
            // Not bound yet, or just reconnecting: the next one counts.
            let _ = self.client.tell_latest("arena", steer, 0, &(input,)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn hear(&mut self, event: &Event) {
        let Event::Push { method, body, .. } = event else { return };
        if *method == MethodId::of("view") {
            let (packet,) = proto::decode::<(Bytes,)>(body).unwrap();
            self.mirror.apply(&packet.0).unwrap();
        } else if *method == MethodId::of("purse") {
            (self.purse,) = proto::decode(body).unwrap();
            self.told_at = Instant::now();
        }
    }

    fn place(&self, id: ReplicaId) -> Option<(f32, f32)> {
        let bytes = self.mirror.component(id, part::PLACE)?;
        let along = |at: usize| f32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        Some((along(0) / rules::UNITS, along(2) / rules::UNITS))
    }

    /// Towards the nearest pick-up, or to the middle of the map.
    fn way(&self) -> (i8, i8) {
        let Some((x, y)) = self.place(self.me) else { return (0, 0) };
        let is_pickup = |id: &ReplicaId| {
            self.mirror.component(*id, part::WHAT).is_some_and(|what| what[0] & 3 >= 2)
        };
        let pickups = self.mirror.replicas().keys().copied().filter(is_pickup);
        let nearest = pickups.filter_map(|id| self.place(id)).min_by(|a, b| {
            let far = |(tx, ty): &(f32, f32)| (tx - x).hypot(ty - y);
            far(a).total_cmp(&far(b))
        });
        let middle = rules::map_edge(10) / 2.0;
        let (tx, ty) = nearest.unwrap_or((middle, middle));
        let step = |from: f32, to: f32| match to - from {
            d if d > rules::SPEED => 1,
            d if d < -rules::SPEED => -1,
            _ => 0,
        };
        (step(x, tx), step(y, ty))
    }
}
