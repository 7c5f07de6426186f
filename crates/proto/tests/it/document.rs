//! `docs/protocol.md` against the code: heads, kinds, codes and problems.

use std::collections::BTreeSet;
use std::fs;

use proto::frame::{CloseCode, Status};

use crate::samples;

/// The rows of all tables in the section called `title`, as cells.
fn rows(title: &str) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let text = fs::read_to_string(path).unwrap();
    let start = text.find(&format!("\n## {title}")).expect(title) + 4;
    let end = text[start..].find("\n## ").map_or(text.len(), |end| start + end);
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    text[start..end].lines().filter(|line| line.starts_with('|')).map(cells).collect()
}

/// `(number, name)` of each row that starts with a number in hexadecimal.
fn numbered(title: &str) -> BTreeSet<(u8, String)> {
    let number =
        |cell: &str| u8::from_str_radix(cell.trim_matches('`').strip_prefix("0x")?, 16).ok();
    rows(title).iter().filter_map(|row| Some((number(&row[0])?, row[1].clone()))).collect()
}

#[test]
fn heads_are_those_of_the_code() {
    let up = samples::up().into_iter().map(|(_, frame)| {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        (payload[0], samples::up_kind(&frame).to_owned())
    });
    assert_eq!(numbered("4."), up.collect());
    let down = samples::down().into_iter().map(|(_, frame)| {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        (payload[0], samples::down_kind(&frame).to_owned())
    });
    assert_eq!(numbered("5."), down.collect());
    let link = samples::link().into_iter().map(|frame| {
        let mut payload = Vec::new();
        frame.encode(0, &mut payload);
        (payload[0], samples::link_kind(&frame).to_owned())
    });
    assert_eq!(numbered("13."), link.collect());
}

#[test]
fn codes_are_those_of_the_code() {
    let mut named = BTreeSet::new();
    for row in rows("8.") {
        if let Ok(code) = row[0].parse::<u64>() {
            let known = [
                format!("{:?}", Status::from_code(code)),
                format!("{:?}", CloseCode::from_code(code)),
            ];
            assert!(known.contains(&row[1]), "{row:?}");
            let resumes = row[2].contains("resumes");
            if row[1] == known[1] {
                assert_eq!(resumes, CloseCode::from_code(code).may_resume(), "{row:?}");
            }
            named.insert((code, row[1].clone()));
        }
    }
    assert_eq!(named.len(), 28, "{named:?}");
}

#[test]
fn vectors_name_only_errors_and_problems_that_are_explained() {
    let explained = |title: &str| -> BTreeSet<String> {
        rows(title).iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/");
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(format!("{folder}{file}")).unwrap()).unwrap()
    };
    let (errors, problems) = (explained("1."), explained("10."));
    let frames = read("frames.json");
    for list in ["bad_up", "bad_down", "split"] {
        for vector in frames[list].as_array().unwrap() {
            if let Some(error) = vector["error"].as_str() {
                assert!(errors.contains(error), "{error}");
            }
        }
    }
    for vector in read("messages.json")["refused"].as_array().unwrap() {
        assert!(problems.contains(vector["problem"].as_str().unwrap()), "{vector}");
    }
}
