//! Declarations that must not compile, with what the compiler says. `TRYBUILD=overwrite` writes
//! the texts anew.

#[test]
fn wrong_declarations_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
