//! Runs the game: `cargo run --release`, then open the address it prints.

fn main() -> mainstay::Exit {
    mainstay::run(hello::app())
}
