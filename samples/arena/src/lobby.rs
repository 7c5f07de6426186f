use mainstay::prelude::*;

use crate::field::Field;
use crate::rules;

/// Knows all arenas of one size. Its key is that size: how many players an arena takes.
#[entity]
#[derive(Default)]
pub struct Lobby {
    fields: Vec<Open>,
}

struct Open {
    field: Ref<Field>,
    players: u32,
}

/// A seat in an arena.
#[derive(Clone, Debug, Message)]
pub struct Place {
    /// The arena.
    pub field: Ref<Field>,
    /// Edge of its map, in units.
    pub edge: f32,
}

#[rpc]
impl Lobby {
    /// An arena with a free seat; opens one if all are full.
    #[invoke(server)]
    fn find_place(&mut self, cx: &mut Cx<Self>) -> Result<Place, String> {
        let most = cx.key() as u32;
        let edge = rules::map_edge(most);
        let free = self.fields.iter_mut().find(|open| open.players < most);
        if let Some(open) = free {
            // Counted at once, so that a crowd does not run for one seat.
            open.players += 1;
            return Ok(Place { field: open.field, edge });
        }
        // One that goes on from before this lobby was here tells of itself within a second.
        let is_known = |field: &Ref<Field>| self.fields.iter().any(|open| open.field == *field);
        let fields = (0..=u16::MAX).map(|index| Ref::keyed(Field::key(most, index)));
        let field = fields.into_iter().find(|field| !is_known(field)).ok_or("all are full")?;
        self.fields.push(Open { field, players: 1 });
        Ok(Place { field, edge })
    }

    /// What an arena really holds.
    #[tell(server)]
    fn count(&mut self, _cx: &mut Cx<Self>, field: Ref<Field>, players: u32) {
        match self.fields.iter_mut().find(|open| open.field == field) {
            Some(open) => open.players = players,
            None => self.fields.push(Open { field, players }),
        }
    }

    /// An arena has ended.
    #[tell(server)]
    fn ended(&mut self, _cx: &mut Cx<Self>, field: Ref<Field>) {
        self.fields.retain(|open| open.field != field);
    }
}
