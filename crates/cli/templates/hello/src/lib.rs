//! A bell that everybody can ring.

use mainstay::prelude::*;
use mainstay::web::Asset;

/// One bell for all players. It counts, and tells everybody who listens.
#[entity]
#[derive(Default)]
pub struct Bell {
    rings: u64,
}

/// What the server tells the page.
#[client]
pub trait Listener {
    /// The bell was rung: the new count.
    #[sync]
    fn rung(rings: u64);
}

#[rpc]
impl Bell {
    /// Rings the bell, and tells how often it was rung.
    #[request(client)]
    fn ring(&mut self, cx: &mut Cx<Self>) -> u64 {
        self.rings += 1;
        for peer in cx.peers() {
            cx.client::<Listener>(&peer).rung(self.rings);
        }
        self.rings
    }

    /// A newcomer hears how things stand.
    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        cx.client::<Listener>(&peer).rung(self.rings);
    }
}

/// The game. Each client's stream `bell` leads to bell number 1.
pub fn app() -> App {
    App::new("hello")
        .entity::<Bell>()
        .client::<Listener>()
        .bind::<Bell>("bell", |_login| 1)
        .page(PAGE)
}

const PAGE: &[Asset] = &[
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../web/index.html"),
    },
    Asset {
        path: "/hello.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../web/hello.js"),
    },
    Asset {
        path: "/mainstay.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../web/mainstay.js"),
    },
];
