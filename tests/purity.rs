//! The check that keeps the engine and the client a state machine: no clock, I/O, log,
//! randomness, thread or lock in them, and no map whose order differs from run to run. It
//! also keeps two crates where they belong: `kcp` in its wrapper and `mio` in the shell.
//!
//! It reads the sources as text, without comments and the insides of literals. It knows no
//! Rust beyond that, so it can be fooled on purpose; it is there for what slips in. Lines
//! that only tests see may print and use maps, but may not wait or look at a clock either.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Something that must not stand in the engine.
struct Rule {
    /// Names and paths, each matched as whole words. One that ends in `!` is a macro.
    words: &'static [&'static str],
    /// Why, for whoever runs into it.
    why: &'static str,
    /// Tests next to the code may use it.
    tests_may: bool,
}

const RULES: &[Rule] = &[
    Rule {
        words: &["Instant", "SystemTime", "UNIX_EPOCH"],
        why: "time comes in as an argument",
        tests_may: false,
    },
    Rule {
        words: &["thread::", "std::thread", "async", "await", "tokio", "mpsc"],
        why: "the engine is called by one thread and never waits",
        tests_may: false,
    },
    Rule {
        words: &["Mutex", "RwLock", "Condvar", "thread_local!", "static mut"],
        why: "the engine is one value with one owner, and nothing is shared",
        tests_may: false,
    },
    Rule {
        words: &[
            "UdpSocket",
            "TcpStream",
            "TcpListener",
            "ToSocketAddrs",
            "socket2",
        ],
        why: "datagrams come in and go out through the driver",
        tests_may: false,
    },
    Rule {
        words: &[
            "std::fs",
            "fs::",
            "File::",
            "std::process",
            "process::",
            "stdin",
            "stdout",
        ],
        why: "I/O is the shell's",
        tests_may: false,
    },
    Rule {
        words: &["std::env", "env::"],
        why: "settings come in through engine::config",
        tests_may: false,
    },
    Rule {
        words: &["getrandom", "rand::", "RandomState", "thread_rng", "OsRng"],
        why: "seeds come in as arguments, so that the same inputs give the same outputs",
        tests_may: false,
    },
    Rule {
        words: &[
            "HashMap::new",
            "HashMap::with_capacity",
            "HashMap::from",
            "HashMap::default",
        ],
        why: "maps are hashed with a key that comes in from outside (with_hasher)",
        tests_may: true,
    },
    Rule {
        words: &[
            "HashSet::new",
            "HashSet::with_capacity",
            "HashSet::from",
            "HashSet::default",
        ],
        why: "sets are hashed with a key that comes in from outside (with_hasher)",
        tests_may: true,
    },
    Rule {
        words: &["log::", "error!", "warn!", "info!", "debug!", "trace!"],
        why: "events are outputs, and the shell alone turns them into log lines",
        tests_may: false,
    },
    Rule {
        words: &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        why: "events are outputs, and the shell alone prints",
        tests_may: true,
    },
    Rule {
        words: &[
            "mio",
            "tiny_http",
            "crate::config",
            "crate::io",
            "crate::admin",
            "crate::sim",
        ],
        why: "the engine knows nothing of the shell",
        tests_may: false,
    },
];

/// What a check finds: where, what, and why not.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    line: usize,
    word: &'static str,
    why: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.file, self.line, self.word, self.why
        )
    }
}

// --- The checks ---------------------------------------------------------------------------

#[test]
fn engine_and_client_are_pure() {
    let sources: Vec<_> = sources()
        .into_iter()
        .filter(|source| is_pure(&source.path))
        .collect();
    let found: Vec<_> = sources
        .iter()
        .flat_map(|source| source.check(RULES))
        .collect();
    assert_none(&found);
    // A check that looks at nothing finds nothing.
    assert!(
        sources.len() > 10,
        "the engine has moved: {} files found",
        sources.len()
    );
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("the library has a root");
    let has_client = sources
        .iter()
        .any(|source| source.path.starts_with("src/client"));
    assert_eq!(
        has_client,
        lib.contains("pub mod client;"),
        "the client has moved"
    );
}

#[test]
fn only_the_link_names_the_kcp_crate() {
    let rule = Rule {
        words: &["kcp::", "use kcp", "crate kcp"],
        why: "src/engine/link.rs alone knows the crate's types",
        tests_may: false,
    };
    let everywhere = check_outside(&[], &rule);
    assert!(
        everywhere
            .iter()
            .any(|found| found.file == "src/engine/link.rs"),
        "the link has moved"
    );
    assert_none(&check_outside(&["src/engine/link.rs"], &rule));
}

#[test]
fn only_the_shell_names_the_mio_crate() {
    let rule = Rule {
        words: &["mio::", "use mio", "crate mio"],
        why: "the loop is in src/io, main starts it, and the tools have loops of their own",
        tests_may: false,
    };
    assert_none(&check_outside(
        &["src/io/", "src/main.rs", "src/bin/"],
        &rule,
    ));
}

fn is_pure(path: &str) -> bool {
    [
        "src/engine/",
        "src/engine.rs",
        "src/client/",
        "src/client.rs",
        "src/fields.rs",
        "src/journal/",
        "src/ticket.rs",
    ]
    .iter()
    .any(|pure| path.starts_with(pure))
}

/// Where `rule` is broken outside the files and folders of `homes`.
fn check_outside(homes: &[&str], rule: &Rule) -> Vec<Finding> {
    let is_home = |path: &str| homes.iter().any(|home| path.starts_with(home));
    let sources = sources()
        .into_iter()
        .filter(|source| !is_home(&source.path));
    sources
        .flat_map(|source| source.check(std::slice::from_ref(rule)))
        .collect()
}

fn assert_none(found: &[Finding]) {
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

// --- Sources ------------------------------------------------------------------------------

/// A file, with blanks for all that is no code.
struct Source {
    /// From the root of the package, with `/` on every system.
    path: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source {
            path: path.to_string(),
            code: code_of(text),
        }
    }

    /// Every place in which one of `rules` is broken, in the order of lines.
    fn check(&self, rules: &[Rule]) -> Vec<Finding> {
        let tests = test_lines(&self.code);
        let mut found = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            for rule in rules
                .iter()
                .filter(|rule| !(rule.tests_may && tests[index]))
            {
                let words = rule.words.iter().filter(|word| has_word(line, word));
                found.extend(words.map(|word| Finding {
                    file: self.path.clone(),
                    line: index + 1,
                    word,
                    why: rule.why,
                }));
            }
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src`.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = vec![root().join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there when tests run") {
            let path = entry.expect("the sources stay while tests run").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path.strip_prefix(root()).expect("found under the root");
                sources.push(Source::new(
                    &path.to_string_lossy().replace('\\', "/"),
                    &text,
                ));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let is_longer = word.ends_with(is_name) && after.is_some_and(is_name);
        !is_longer && !before.is_some_and(is_name)
    })
}

/// For each line, whether it is in a `#[cfg(test)] mod` of the file.
fn test_lines(code: &str) -> Vec<bool> {
    let lines: Vec<&str> = code.lines().collect();
    let mut is_test = vec![false; lines.len()];
    let mut index = 0;
    while index < lines.len() {
        index += 1;
        if lines[index - 1].trim() != "#[cfg(test)]" {
            continue;
        }
        // From the opening brace to the one that closes it; an item without one is a line.
        let mut depth = 0_usize;
        while index < lines.len() {
            is_test[index] = true;
            let opened = lines[index].matches('{').count();
            depth = (depth + opened).saturating_sub(lines[index].matches('}').count());
            index += 1;
            if depth == 0 {
                break;
            }
        }
    }
    is_test
}

/// `text` with a blank for each character of a comment or inside a literal. Lines stay.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let is_inside_name = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let length = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if rest[0] == 'r' && !is_inside_name {
            raw_string(rest)
        } else if rest.starts_with(&['b', 'r']) && !is_inside_name {
            raw_string(&rest[1..])
                .checked_add(1)
                .filter(|n| *n > 1)
                .unwrap_or(0)
        } else if rest[0] == '"' {
            quoted(rest, '"')
        } else if rest[0] == '\'' && is_char(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
        match length {
            0 => code.push(rest[0]),
            _ => code.extend(rest[..length].iter().map(blank)),
        }
        at += length.max(1);
    }
    code
}

/// Length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            (at, depth) = (at + 2, depth + 1);
        } else if rest[at..].starts_with(&['*', '/']) {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the raw string that `rest` begins with, 0 if that is none: a name, or `r#name`.
fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let end: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', hashes))
        .collect();
    let inside = &rest[2 + hashes..];
    let length = inside
        .windows(end.len())
        .position(|window| window == end.as_slice());
    length.map_or(rest.len(), |length| 2 + hashes + length + end.len())
}

/// Length of the literal between two of `quote` that `rest` begins with.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Whether a quote begins a character, not a lifetime.
fn is_char(rest: &[char]) -> bool {
    rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')
}

// --- The check of the check ---------------------------------------------------------------

/// What the rules find in `text`, as pairs of line and word.
fn found(text: &str) -> Vec<(usize, &'static str)> {
    let findings = Source::new("src/engine/x.rs", text).check(RULES);
    findings
        .iter()
        .map(|finding| (finding.line, finding.word))
        .collect()
}

#[test]
fn each_forbidden_word_is_found() {
    for word in RULES.iter().flat_map(|rule| rule.words) {
        let text = format!("fn f() {{\n    {word}(now);\n}}\n");
        assert!(found(&text).contains(&(2, word)), "{word}");
    }
}

#[test]
fn what_slips_in_is_found_with_file_line_and_reason() {
    let text = "use std::time;\n\nfn f() -> u64 {\n    let now = time::Instant::now();\n}\n";
    let found = Source::new("src/engine/x.rs", text).check(RULES);
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["src/engine/x.rs:4: Instant: time comes in as an argument"]
    );
    for (text, word) in [
        ("let map: HashMap<u8, u8> = HashMap::new();", "HashMap::new"),
        ("log::info!(\"{n}\");", "log::"),
        ("async fn wait() {}", "async"),
        ("done.await?;", "await"),
        ("use std::{net::UdpSocket, sync::Mutex};", "UdpSocket"),
        ("use std::{net::UdpSocket, sync::Mutex};", "Mutex"),
        ("std::thread::sleep(DAY);", "thread::"),
        ("let s = \"a // b\"; dbg!(s);", "dbg!"),
        ("let c = '\"'; dbg!(c);", "dbg!"),
        ("let c = '\\''; dbg!(c);", "dbg!"),
        ("let s = r#\"a\"b\"#; dbg!(s);", "dbg!"),
        ("fn f<'a>(a: &'a str) { dbg!(a) }", "dbg!"),
        ("/* /* a */ b */ dbg!(c);", "dbg!"),
        ("let r#try = 1; dbg!(c);", "dbg!"),
    ] {
        assert!(self::found(text).contains(&(1, word)), "{text}");
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    for text in [
        "//! Never calls Instant::now.",
        "/// Like [`std::time::Instant`].",
        "/* Instant\n /* Mutex */ log:: */",
        "let s = \"Instant \\\" Mutex\";",
        "let s = r#\"Instant \" Mutex\"#;",
        "let s = br\"Instant\";",
        "let s = b\"Instant\";",
        "expect(\"no\n    Mutex\")",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn a_part_of_a_longer_name_is_no_match() {
    for text in [
        "use super::frame_log::FrameLog;",
        "backlog::drain();",
        "fn await_proof() {}",
        "debug_assert!(true);",
        "operand::left();",
        "struct InstantReplay;",
        "HashMap::with_capacity_and_hasher(1, hasher);",
        "use std::io::Write;",
        "env!(\"CARGO_PKG_VERSION\");",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn tests_in_a_file_may_use_maps_and_print_but_have_no_clock() {
    let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {\n        \
                HashMap::new();\n        println!();\n        Instant::now();\n    }\n}\n\
                fn h() {\n    HashMap::new();\n}\n";
    assert_eq!(found(text), [(7, "Instant"), (11, "HashMap::new")]);
}
