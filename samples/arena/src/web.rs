use mainstay::web::Asset;

/// The page and its scripts, part of the program.
pub const ASSETS: &[Asset] = &[
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../web/index.html"),
    },
    Asset {
        path: "/arena.css",
        media_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../web/arena.css"),
    },
    Asset {
        path: "/arena.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../web/arena.js"),
    },
    Asset {
        path: "/view.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../web/view.js"),
    },
    Asset {
        path: "/mainstay.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../../sdk/typescript/dist/mainstay.js"),
    },
];
