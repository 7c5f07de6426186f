use mainstay::bots::{Bot, Script, Tag};
use mainstay::client::{CallError, Event};
use mainstay::prelude::*;
use mainstay::proto::{self, MethodId};
use mainstay::scene::{Mirror, ReplicaId};

use crate::messages::{Input, Playing, Row};
use crate::rules::{self, part};

const PLAY: MethodId = MethodId::of("play");
const STEER: MethodId = MethodId::of("steer");
const SCORE: MethodId = MethodId::of("score");
const RESPAWN: MethodId = MethodId::of("respawn");
const SAY: MethodId = MethodId::of("say");
const VIEW: MethodId = MethodId::of("view");
const OWN: MethodId = MethodId::of("own");

const ASKED_PLAY: Tag = 1;
const ASKED_SCORE: Tag = 2;
const ASKED_RESPAWN: Tag = 3;

/// Ticks before a player who found no arena looks for another one.
const AGAIN_AFTER: u32 = 10;
/// The same of one whose arena is gone: it may be back.
const GONE_AFTER: u32 = 100;

/// A scripted player: it wanders, aims at whoever is near, shoots, and checks all that it is told.
pub struct Player {
    size: u32,
    me: Option<ReplicaId>,
    mirror: Mirror,
    /// The score as the server told it last.
    own: Row,
    ticks: u32,
    input: Input,
    turn_at: u32,
    views: u64,
    /// When to look for an arena again.
    again_at: Option<u32>,
}

impl Player {
    /// A bot for an arena of `size` players.
    pub fn new(size: u32) -> Self {
        Player {
            size,
            me: None,
            mirror: Mirror::new(rules::layout()),
            own: Row::default(),
            ticks: 0,
            input: Input::default(),
            turn_at: 0,
            views: 0,
            again_at: None,
        }
    }

    fn enter(&self, bot: &mut Bot<'_>) {
        let name = format!("bot {}", bot.index());
        bot.request("avatar", PLAY, &(name, self.size), ASKED_PLAY);
    }

    fn handle_push(&mut self, bot: &mut Bot<'_>, method: MethodId, body: &[u8]) {
        match method {
            VIEW => match proto::decode::<(Bytes,)>(body) {
                Ok((packet,)) => {
                    self.views += 1;
                    let applied = self.mirror.apply(&packet.0);
                    bot.check(applied.is_ok(), || format!("a view cannot be read: {applied:?}"));
                }
                Err(error) => bot.check(false, || format!("a view is no packet: {error}")),
            },
            OWN => match proto::decode::<(Row,)>(body) {
                Ok((row,)) => {
                    let grows = row.points >= self.own.points && row.kills >= self.own.kills;
                    let (new, old) = (row.clone(), self.own.clone());
                    bot.check(grows, || format!("the score fell from {old:?} to {new:?}"));
                    self.own = row;
                }
                Err(error) => bot.check(false, || format!("a score cannot be read: {error}")),
            },
            _ => {}
        }
    }

    /// Somebody near, as the last view has it.
    fn aim(&self, me: ReplicaId) -> Option<u8> {
        let place = |id| {
            let bytes = self.mirror.component(id, part::PLACE)?;
            let x = u16::from_le_bytes([bytes[0], bytes[1]]);
            let y = u16::from_le_bytes([bytes[2], bytes[3]]);
            Some((f32::from(x), f32::from(y)))
        };
        let (x, y) = place(me)?;
        let is_target = |id: ReplicaId| {
            let what = self.mirror.component(id, part::WHAT)?[0];
            let health = self.mirror.component(id, part::HEALTH)?[0];
            (id != me && what & 3 == 0 && health > 0).then_some(())
        };
        let targets = self.mirror.replicas().keys().copied().filter(|id| is_target(*id).is_some());
        let distance = |id: ReplicaId| place(id).map(|(tx, ty)| ((tx - x).hypot(ty - y), tx, ty));
        let nearest = targets.filter_map(distance).min_by(|a, b| a.0.total_cmp(&b.0))?;
        let (_, tx, ty) = nearest;
        let turn = (ty - y).atan2(tx - x) / std::f32::consts::TAU;
        Some((turn * 256.0).rem_euclid(256.0) as u8)
    }

    fn steer(&mut self, bot: &mut Bot<'_>, me: ReplicaId) {
        if self.ticks >= self.turn_at {
            self.turn_at = self.ticks + 5 + bot.random().below(25) as u32;
            self.input.x = bot.random().below(3) as i8 - 1;
            self.input.y = bot.random().below(3) as i8 - 1;
            self.input.angle = bot.random().below(256) as u8;
        }
        if let Some(angle) = self.aim(me) {
            self.input.angle = angle;
        }
        self.input.fire = bot.random().chance(1, 3);
        self.input.seen = self.mirror.step();
        bot.tell_latest("arena", STEER, 0, &(self.input.clone(),));
    }
}

impl Script for Player {
    fn on_connected(&mut self, bot: &mut Bot<'_>, resumed: bool) {
        if resumed {
            return;
        }
        *self = Player::new(self.size);
        self.enter(bot);
    }

    fn on_event(&mut self, bot: &mut Bot<'_>, event: &Event) {
        match event {
            Event::Push { method, body, .. } => self.handle_push(bot, *method, body),
            // An arena whose server is gone goes on at another one, and tells the score anew. If it does not, there
            // are others.
            Event::Unbound { stream, .. } if **stream == *"arena" => {
                self.own = Row::default();
                self.again_at = Some(self.ticks + GONE_AFTER);
            }
            Event::Bound { stream, .. } if **stream == *"arena" => {
                self.own = Row::default();
                self.again_at = None;
            }
            _ => {}
        }
    }

    fn on_reply(&mut self, bot: &mut Bot<'_>, tag: Tag, result: Result<Vec<u8>, CallError>) {
        // What failed is counted by the swarm.
        let Ok(body) = result else {
            if tag == ASKED_PLAY {
                self.again_at = Some(self.ticks + AGAIN_AFTER);
            }
            return;
        };
        match tag {
            ASKED_PLAY => match proto::decode::<Playing>(&body) {
                Ok(playing) => self.me = Some(ReplicaId(playing.me)),
                Err(error) => bot.check(false, || format!("entering: {error}")),
            },
            ASKED_SCORE => {
                let row = proto::decode::<Row>(&body);
                let (own, me) = (self.own.clone(), self.me);
                let same = row.as_ref().is_ok_and(|row| {
                    let known = (row.points, row.kills, row.deaths);
                    known == (own.points, own.kills, own.deaths) && Some(ReplicaId(row.id)) == me
                });
                bot.check(same, || format!("score {row:?}, but told {own:?}"));
            }
            ASKED_RESPAWN => {
                let back = proto::decode::<bool>(&body);
                bot.check(back.is_ok(), || format!("respawn: {back:?}"));
            }
            _ => {}
        }
    }

    fn on_tick(&mut self, bot: &mut Bot<'_>) {
        self.ticks += 1;
        if self.again_at.is_some_and(|at| at <= self.ticks) && bot.is_bound("avatar") {
            *self = Player { ticks: self.ticks, ..Player::new(self.size) };
            self.enter(bot);
        }
        let Some(me) = self.me.filter(|_| bot.is_connected() && bot.is_bound("arena")) else {
            return;
        };
        self.steer(bot, me);
        // Not all at once: each bot has its own moment.
        match (self.ticks + bot.index()) % 50 {
            0 => bot.request("arena", SCORE, &(), ASKED_SCORE),
            25 => bot.request("arena", RESPAWN, &(), ASKED_RESPAWN),
            _ => {}
        }
        if (self.ticks + bot.index() * 7).is_multiple_of(600) {
            bot.tell("arena", SAY, &(format!("hello from bot {}", bot.index()),));
        }
    }
}
