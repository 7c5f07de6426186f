//! The arena as a server of its own.

fn main() -> mainstay::Exit {
    mainstay::run(arena::app())
}
