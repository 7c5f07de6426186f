/// The longest subject or pattern, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// Whether `text` names one subject: words of `a-z A-Z 0-9 _ -` joined by dots.
pub fn is_subject(text: &str) -> bool {
    text.len() <= SUBJECT_BYTES_MAX && text.split('.').all(is_word)
}

/// Whether `text` is a subject in which words may be `*` (any one word) and the last one `>`
/// (one or more words).
pub fn is_pattern(text: &str) -> bool {
    let mut words = text.split('.').peekable();
    let mut good = text.len() <= SUBJECT_BYTES_MAX;
    while let Some(word) = words.next() {
        good &= is_word(word) || word == "*" || word == ">" && words.peek().is_none();
    }
    good
}

/// Whether a good `pattern` covers a good `subject`.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut words = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, words.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

/// The subjects that two good patterns share, as a pattern.
pub(crate) fn intersection(one: &str, other: &str) -> Option<String> {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    let mut shared: Vec<&str> = Vec::new();
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return Some(shared.join(".")),
            (Some(">"), Some(word)) => {
                shared.push(word);
                shared.extend(others);
                return Some(shared.join("."));
            }
            (Some(word), Some(">")) => {
                shared.push(word);
                shared.extend(ones);
                return Some(shared.join("."));
            }
            (Some("*"), Some(word)) | (Some(word), Some("*")) => shared.push(word),
            (Some(a), Some(b)) if a == b => shared.push(a),
            _ => return None,
        }
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_patterns() {
        for good in ["a", "a.b", "guild-7.chat_x.9"] {
            assert!(is_subject(good) && is_pattern(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "ä", "a.*", ">", &"x".repeat(256)] {
            assert!(!is_subject(bad), "{bad}");
        }
        for good in ["*", ">", "a.*.b", "*.*", "a.>"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in ["", "a.", ">.a", "a.>.b", "a*", "a.b>"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn patterns_cover() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a", false),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("*.b", "a.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.>", "a", false),
            ("*.>", "a.b", true),
        ];
        for (pattern, subject, expected) in table {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn patterns_share_subjects() {
        let table = [
            ("a.b", "a.b", Some("a.b")),
            ("a.b", "a.c", None),
            ("a.*", "*.b", Some("a.b")),
            ("a.>", "a", None),
            ("a.>", "*.b.c", Some("a.b.c")),
            (">", "a.*", Some("a.*")),
            ("a.>", "*.>", Some("a.>")),
            ("a.*", "a.>", Some("a.*")),
            ("a.*.c", "a.b", None),
        ];
        for (one, other, expected) in table {
            assert_eq!(intersection(one, other).as_deref(), expected, "{one} {other}");
            assert_eq!(intersection(other, one).as_deref(), expected, "{other} {one}");
        }
    }
}
