use env::Random;
use expect_test::{Expect, expect};

use super::*;

fn check(text: &str, expect: Expect) {
    let shown = match parse("t.json", text.as_bytes(), &Limits::default()) {
        Ok(value) => value.to_string(),
        Err(problem) => format!("error {problem}"),
    };
    expect.assert_eq(&shown);
}

fn errors(texts: &[&str], expect: Expect) {
    let mut shown = String::new();
    for text in texts {
        let problem = parse("t.json", text.as_bytes(), &Limits::default()).expect_err(text);
        shown += &format!("{text:?}\n    {problem}\n");
    }
    expect.assert_eq(&shown);
}

#[test]
fn comments_and_trailing_commas() {
    check(
        "\u{feff}// first\n{ /* a */ \"a\": [1, 2, /* } */ ], // b: 3,\n \"c\": {\"d\": null,},\n} // end",
        expect![[r#"{"a": [1, 2], "c": {"d": null}}"#]],
    );
    check("// nothing but a comment\n\"http://x/*y*/\" //", expect![[r#""http://x/*y*/""#]]);
}

#[test]
fn numbers_keep_their_kind() {
    check(
        "[0, -1, 1.0, 1.5e3, 1E-2, 18446744073709551615, true, false]",
        expect!["[0, -1, 1.0, 1500.0, 0.01, 18446744073709551615, true, false]"],
    );
}

#[test]
fn escapes() {
    check(
        r#"["\"\\\/\b\f\n\r\t", "\u00e4\ud83d\ude00", "\u0024HOME\u0024", "ä😀"]"#,
        expect![[r#"["\"\\/\u0008\u000c\n\r\t", "ä😀", "$$HOME$$", "ä😀"]"#]],
    );
}

/// Macros used to be compulsory, floats and booleans became strings, and text was not searched.
#[test]
fn macros_keep_their_type_and_work_inside_text() {
    check(
        r#"{
            "whole": "$PORT$", "float": "$RATE$", "bool": "$ON$", "object": "$ADDRESS$",
            "list": ["$LIST$", "$NONE$"],
            "text": "tcp://$HOST$:$PORT$/$RATE$/$ON$/$NONE$",
            "dollars": "$$5 and $$HOST$$",
            "$HOST$ key": 1,
            "$MACRO$": {
                "ADDRESS": {"url": "$URL$", "port": "$PORT$"},
                "URL": "http://$HOST$:$PORT$",
                "HOST": "localhost", "PORT": 80, "RATE": 2.5, "ON": true, "NONE": null,
                "LIST": [1, "$RATE$"],
            },
        }"#,
        expect![[
            r#"{"whole": 80, "float": 2.5, "bool": true, "object": {"url": "http://localhost:80", "port": 80}, "list": [[1, 2.5], null], "text": "tcp://localhost:80/2.5/true/null", "dollars": "$$5 and $$HOST$$", "localhost key": 1}"#
        ]],
    );
    check(r#"{"a": 1}"#, expect![[r#"{"a": 1}"#]]);
    check(r#"{"$MACRO$": {}}"#, expect!["{}"]);
}

#[test]
fn wrong_macros_say_where() {
    errors(
        &[
            "{\"a\": \"$HOST$\"}",
            "{\"$MACRO$\": {\"HOST\": 1},\n  \"a\": \"x $HSOT$\"}",
            "{\"$MACRO$\": {\"A\": 1}, \"a\": \"$ZEBRA$\"}",
            "{\n  \"a\": \"costs 5$\"}",
            "{\"a\": \"$HOST and more\"}",
            "{\"a\": \"$HOST\"}",
            "{\"a\": \"$$$\"}",
            "{\"a\": \"x$",
            "{\"$MACRO$\": {\"A\": \"$B$\", \"B\": \"x$C$\", \"C\": [\"$A$\"]}}",
            "{\"$MACRO$\": {\"A\": \"$A$\"}}",
            "{\"$MACRO$\": {\"A\": \"$B$\"}}",
            "{\"$MACRO$\": {\"L\": []}, \"a\": \"x$L$\"}",
            "{\"$MACRO$\": {\"L\": 1, \"L\": 2}}",
            "{\"$MACRO$\": {\"a b\": 1}}",
            "{\"$MACRO$\": {\"$A$\": 1}}",
            "{\"$MACRO$\": []}",
            "{\"a\": {\"$MACRO$\": {}}}",
            "{\"$MACRO$\": {}, \"$MACRO$\": {}}",
            "{\"a\": \"$$$$$\"}",
            "{\"a\": \"$ $\"}",
        ],
        expect![[r#"
            "{\"a\": \"$HOST$\"}"
                t.json:1:8: unknown macro $HOST$; this file has no $MACRO$ block
            "{\"$MACRO$\": {\"HOST\": 1},\n  \"a\": \"x $HSOT$\"}"
                t.json:2:11: unknown macro $HSOT$; did you mean $HOST$?
            "{\"$MACRO$\": {\"A\": 1}, \"a\": \"$ZEBRA$\"}"
                t.json:1:29: unknown macro $ZEBRA$; a dollar is written $$
            "{\n  \"a\": \"costs 5$\"}"
                t.json:2:16: missing closing $ after "$"; a dollar is written $$
            "{\"a\": \"$HOST and more\"}"
                t.json:1:8: missing closing $ after "$HOST"; a dollar is written $$
            "{\"a\": \"$HOST\"}"
                t.json:1:8: missing closing $ after "$HOST"; a dollar is written $$
            "{\"a\": \"$$$\"}"
                t.json:1:10: missing closing $ after "$"; a dollar is written $$
            "{\"a\": \"x$"
                t.json:1:9: missing closing $ after "$"; a dollar is written $$
            "{\"$MACRO$\": {\"A\": \"$B$\", \"B\": \"x$C$\", \"C\": [\"$A$\"]}}"
                t.json:1:46: macros loop: A -> B -> C -> A
            "{\"$MACRO$\": {\"A\": \"$A$\"}}"
                t.json:1:20: macros loop: A -> A
            "{\"$MACRO$\": {\"A\": \"$B$\"}}"
                t.json:1:20: unknown macro $B$; a dollar is written $$
            "{\"$MACRO$\": {\"L\": []}, \"a\": \"x$L$\"}"
                t.json:1:31: $L$ is a list: it cannot stand in text
            "{\"$MACRO$\": {\"L\": 1, \"L\": 2}}"
                t.json:1:22: the macro L is defined twice
            "{\"$MACRO$\": {\"a b\": 1}}"
                t.json:1:14: "a b" is no name for a macro: letters, digits, _ - .
            "{\"$MACRO$\": {\"$A$\": 1}}"
                t.json:1:14: the name of a macro holds no macro
            "{\"$MACRO$\": []}"
                t.json:1:13: $MACRO$ must be an object
            "{\"a\": {\"$MACRO$\": {}}}"
                t.json:1:8: $MACRO$ stands once, in the outermost object
            "{\"$MACRO$\": {}, \"$MACRO$\": {}}"
                t.json:1:17: $MACRO$ stands once, in the outermost object
            "{\"a\": \"$$$$$\"}"
                t.json:1:12: missing closing $ after "$"; a dollar is written $$
            "{\"a\": \"$ $\"}"
                t.json:1:8: missing closing $ after "$"; a dollar is written $$
        "#]],
    );
}

#[test]
fn wrong_texts_say_where() {
    errors(
        &[
            "",
            "  \n",
            "{",
            "{\n  \"a\"",
            "{\"a\":",
            "{\"a\": 1",
            "{\"a\" 1}",
            "{\"a\": 1 \"b\": 2}",
            "{a: 1}",
            "{'a': 1}",
            "{\"a\": 1, \"a\": 2}",
            "{,}",
            "[1,,2]",
            "[1 2]",
            "[1",
            "\"abc",
            "\"a\nb\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "0x10",
            "1e999",
            "999999999999999999999999999999999999999999",
            "nul",
            "True",
            "hello",
            "1 2",
            "/* open",
            "/ 1",
            "{\"ä\": 1}\n\u{20ac} x",
        ],
        expect![[r#"
            ""
                t.json:1:1: the file ends where a value should be
            "  \n"
                t.json:2:1: the file ends where a value should be
            "{"
                t.json:1:2: the file ends inside the object begun at 1:1
            "{\n  \"a\""
                t.json:2:6: the file ends inside the object begun at 1:1
            "{\"a\":"
                t.json:1:6: the file ends inside the object begun at 1:1
            "{\"a\": 1"
                t.json:1:8: the file ends inside the object begun at 1:1
            "{\"a\" 1}"
                t.json:1:6: '1' where : should be
            "{\"a\": 1 \"b\": 2}"
                t.json:1:9: '"' where , or } should be
            "{a: 1}"
                t.json:1:2: 'a' where a "key" or } should be
            "{'a': 1}"
                t.json:1:2: '\'' where a "key" or } should be
            "{\"a\": 1, \"a\": 2}"
                t.json:1:10: the key "a" stands at 1:2 already
            "{,}"
                t.json:1:2: ',' where a "key" or } should be
            "[1,,2]"
                t.json:1:4: ',' does not begin a value
            "[1 2]"
                t.json:1:4: '2' where , or ] should be
            "[1"
                t.json:1:3: the file ends inside the list begun at 1:1
            "\"abc"
                t.json:1:5: the file ends inside the text begun at 1:1
            "\"a\nb\""
                t.json:1:3: '\n' in a text: write it as an escape
            "\"\\x\""
                t.json:1:2: \x is no escape: \" \\ \/ \b \f \n \r \t \u
            "\"\\u12g4\""
                t.json:1:2: \u needs four hexadecimal digits
            "\"\\ud800\""
                t.json:1:2: half of a surrogate pair
            "\"\\ud800\\u0041\""
                t.json:1:2: half of a surrogate pair
            "\"\\udc00\""
                t.json:1:2: half of a surrogate pair
            "01"
                t.json:1:1: 01 is no number of JSON
            "-"
                t.json:1:1: - is no number of JSON
            "1."
                t.json:1:1: 1. is no number of JSON
            ".5"
                t.json:1:1: '.' does not begin a value
            "1e"
                t.json:1:1: 1e is no number of JSON
            "+1"
                t.json:1:1: '+' does not begin a value
            "0x10"
                t.json:1:1: 0x10 is no number of JSON
            "1e999"
                t.json:1:1: a number too great to hold
            "999999999999999999999999999999999999999999"
                t.json:1:1: a number too great to hold
            "nul"
                t.json:1:1: nul is no value: texts stand in "quotes"
            "True"
                t.json:1:1: True is no value: texts stand in "quotes"
            "hello"
                t.json:1:1: hello is no value: texts stand in "quotes"
            "1 2"
                t.json:1:3: '2' after the end of the value
            "/* open"
                t.json:1:8: the file ends inside the comment begun at 1:1
            "/ 1"
                t.json:1:1: '/' does not begin a value
            "{\"ä\": 1}\n€ x"
                t.json:2:1: '€' after the end of the value
        "#]],
    );
    let latin = parse("t.json", b"{\"a\": \"\xe4\"}", &Limits::default()).expect_err("not UTF-8");
    expect!["t.json:1:8: bytes that are not UTF-8"].assert_eq(&latin.to_string());
    let tail = parse("t.json", b"{}\n\xff", &Limits::default()).expect_err("not UTF-8");
    expect!["t.json:2:1: bytes that are not UTF-8"].assert_eq(&tail.to_string());
}

#[test]
fn places_of_values_are_kept() {
    let text = "{\n  \"a\": {\"b\": [1,\n 2]},\n\"c\": \"$M$\", \"$MACRO$\": {\"M\": [7]}}";
    let value = parse("t.json", text.as_bytes(), &Limits::default()).expect("parses");
    let leaves = value.leaves();
    let shown: Vec<String> =
        leaves.iter().map(|l| format!("{} {} {}", l.value.place, l.path, l.value)).collect();
    expect![[r#"
        t.json:2:15 a.b.0 1
        t.json:3:2 a.b.1 2
        t.json:4:31 c.0 7"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn limits_hold_for_text_depth_values_and_expansion() {
    let limits = Limits { bytes_max: 400, depth_max: 4, values_max: 20 };
    let refuse =
        |text: &str| parse("t.json", text.as_bytes(), &limits).expect_err(text).to_string();
    let mut shown = vec![
        refuse(&" ".repeat(401)),
        refuse("[[[[[1]]]]]"),
        refuse("[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0]"),
        // The "billion laughs": each macro is ten of the one before.
        refuse(r#"{"$MACRO$": {"A": [1,1,1,1], "B": ["$A$","$A$","$A$"], "C": ["$B$","$B$"]}}"#),
        refuse(
            r#"{"$MACRO$": {"A": "$B$", "B": "$C$", "C": "$D$", "D": "$E$", "E": "$F$", "F": 1}}"#,
        ),
        refuse(r#"{"$MACRO$": {"A": [[["$B$"]]], "B": [[1]]}}"#),
    ];
    let long = "x".repeat(120);
    shown.push(refuse(&format!(r#"{{"$MACRO$": {{"A": "{long}"}}, "b": "$A$$A$$A$ $A$"}}"#)));
    expect![[r#"
        t.json:1:1: 401 bytes exceed the limit of 400
        t.json:1:6: nested deeper than 4
        t.json:1:40: more than 20 values
        t.json:1:49: macros make more than 20 values
        t.json:1:79: macros nest deeper than 4
        t.json:1:22: nested deeper than 4
        t.json:1:153: macros make more than 400 bytes of text"#]]
    .assert_eq(&shown.join("\n"));
    let deep = "[".repeat(1_000_000);
    assert!(parse("t.json", deep.as_bytes(), &Limits::default()).is_err());
    let deep = "{\"a\":".repeat(1_000_000);
    assert!(parse("t.json", deep.as_bytes(), &Limits::default()).is_err());
}

const SAMPLE: &str = r#"// A sample of everything.
{
    "$MACRO$": {"HOST": "ä😀$PORT$", "PORT": 8000, "ALL": {"host": "$HOST$"}},
    "a": ["$ALL$", -1.5e3, true, null, "\u00e4\ud83d\ude00\n", ], /* and */
    "b$PORT$": {"c": "x$HOST$$$", "d": {}},
}
"#;

/// Damaged input must be refused, never panic; a broken tail must not pass for the whole.
#[test]
fn truncated_at_every_byte_never_panics() {
    let whole = SAMPLE.as_bytes();
    let value = parse("t.json", whole, &Limits::default()).expect("parses");
    let end = SAMPLE.rfind('}').expect("has one");
    for cut in 0..whole.len() {
        match parse("t.json", &whole[..cut], &Limits::default()) {
            Ok(cut_value) => assert!(cut > end && cut_value == value, "{cut}"),
            Err(problem) => assert!(problem.place.line() > 0 && cut <= end, "{cut}: {problem}"),
        }
    }
}

#[test]
fn damaged_at_random_never_panics() {
    let mut random = Random::from_seed(21);
    for _ in 0..20_000 {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.index(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.u32() as u8,
                1 => _ = bytes.remove(at),
                2 => bytes.insert(at, *random.pick(b"{}[]\",:$\\/*-0e").expect("some")),
                _ => {
                    let from = random.index(bytes.len());
                    let piece = bytes[from.min(at)..from.max(at)].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        if let Ok(value) = parse("t.json", &bytes, &Limits::default()) {
            let again = parse("t.json", value.to_string().as_bytes(), &Limits::default());
            assert_eq!(again.expect("what we wrote"), value);
        }
    }
}

fn random_json(random: &mut Random, depth: u32) -> serde_json::Value {
    let text = |random: &mut Random| -> String {
        let chars = ['a', 'ß', '😀', '"', '\\', '\n', '\u{1}', '/', ' '];
        (0..random.below(6)).map(|_| *random.pick(&chars).expect("some")).collect()
    };
    match random.below(if depth > 4 { 5 } else { 7 }) {
        0 => serde_json::Value::Null,
        1 => random.chance(1, 2).into(),
        2 => (random.u64() as i64).into(),
        // Exact in few digits: serde_json rounds its last one.
        3 => (random.below(8_000_000) as f64 / 8.0).into(),
        4 => text(random).into(),
        5 => (0..random.below(5)).map(|_| random_json(random, depth + 1)).collect(),
        _ => {
            let mut map = serde_json::Map::new();
            for _ in 0..random.below(5) {
                map.insert(text(random), random_json(random, depth + 1));
            }
            map.into()
        }
    }
}

#[test]
fn plain_json_means_what_it_means_elsewhere() {
    let mut random = Random::from_seed(22);
    for round in 0..2_000 {
        let wanted = random_json(&mut random, 0);
        let pretty = serde_json::to_string_pretty(&wanted).expect("writes");
        let text = if round % 2 == 0 { wanted.to_string() } else { pretty };
        let value = parse("t.json", text.as_bytes(), &Limits::default()).expect(&text);
        let back: serde_json::Value = serde_json::from_str(&value.to_string()).expect("is JSON");
        assert_eq!(back, wanted);
    }
}

#[test]
fn settings_are_values_or_plain_text() {
    let shown = |text| setting("environment MAINSTAY_X", text).to_string();
    assert_eq!(shown("12"), "12");
    assert_eq!(shown("true"), "true");
    assert_eq!(shown("4s"), "\"4s\"");
    assert_eq!(shown("\"12\""), "\"12\"");
    assert_eq!(shown("[1, \"a\",]"), "[1, \"a\"]");
    assert_eq!(shown("127.0.0.1:80"), "\"127.0.0.1:80\"");
    assert_eq!(shown(""), "\"\"");
    let dollars = setting("--set", "\"$HOME$5\"");
    assert_eq!(dollars.as_text(), Some("$HOME$5"));
    assert_eq!(setting("--set", "a$b").as_text(), Some("a$b"));
    assert_eq!(setting("--set", "[1]").leaves()[0].value.place.to_string(), "--set");
}

#[test]
fn layers_join_objects_and_replace_the_rest() {
    let read = |text: &str| parse("t.json", text.as_bytes(), &Limits::default()).expect(text);
    let mut below = read(r#"{"a": {"b": 1, "c": [1, 2]}, "d": 4}"#);
    below.overlay(read(r#"{"a": {"c": [3], "e": {}}, "d": {"f": 1}}"#));
    below.overlay(setting("--set a.b", "9").under("a.b"));
    expect![[r#"{"a": {"b": 9, "c": [3], "e": {}}, "d": {"f": 1}}"#]].assert_eq(&below.to_string());
    assert_eq!(below.at_path("a.b").expect("set").place.to_string(), "--set a.b");
    assert_eq!(below.at_path("a.x"), None);
    let Data::Map(mut map) = below.data else { panic!("an object") };
    assert!(map.remove("a").is_some() && map.remove("a").is_none());
    assert_eq!(map.get("d").map(Value::kind), Some("an object"));
}
