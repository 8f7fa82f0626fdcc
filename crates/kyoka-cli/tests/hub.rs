//! Checkpoints by name: fetched once from a hub, then taken from the cache.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const NAME: &str = "somebody/llama";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What repositories often hold too.
const NOT_WANTED: [&str; 3] = ["pytorch_model.bin", "onnx/config.json", "consolidated.safetensors"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kyoka/tests/golden/llama_yarn")
}

/// The files of the repository: a checkpoint, and something that a checkpoint does not need.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let mut files: BTreeMap<_, _> =
        names.iter().map(|&name| (name.to_owned(), fs::read(golden().join(name)).unwrap())).collect();
    for name in NOT_WANTED {
        files.insert(name.to_owned(), b"not wanted".to_vec());
    }
    files
}

/// A hub of one repository; counts the bodies of files that it hands out.
fn hub() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let handed = Arc::new(AtomicUsize::new(0));
    let count = handed.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let count = count.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &count));
        }
    });
    (address, handed)
}

fn answer(mut stream: TcpStream, handed: &AtomicUsize) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let _headers = lines.take_while(|line| !line.is_empty()).count();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let files = repository();
    let file =
        path.strip_prefix(&format!("/{NAME}/resolve/{COMMIT}/")).and_then(|name| files.get_key_value(name));
    let (status, kind, body) = match file {
        Some((_, bytes)) => ("200 OK", "application/octet-stream", bytes.clone()),
        None if path.starts_with(&format!("/api/models/{NAME}/tree/")) => {
            let entry = |(name, bytes): (&String, &Vec<u8>)| {
                format!(r#"{{"type": "file", "oid": "{COMMIT}", "size": {}, "path": "{name}"}}"#, bytes.len())
            };
            let entries: Vec<String> = files.iter().map(entry).collect();
            ("200 OK", "application/json", format!("[{}]", entries.join(", ")).into_bytes())
        }
        None if path.starts_with(&format!("/api/models/{NAME}")) => {
            let body = format!(r#"{{"id": "{NAME}", "sha": "{COMMIT}"}}"#);
            ("200 OK", "application/json", body.into_bytes())
        }
        None => ("404 Not Found", "text/plain", Vec::new()),
    };
    let etag = file.map(|(name, _)| name.replace('.', "-")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\n\
         X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    if method == "GET" {
        handed.fetch_add(usize::from(file.is_some()), Ordering::SeqCst);
        stream.write_all(&body).unwrap();
    }
    // What the client has not read yet must not be lost to a reset.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _rest = stream.read(&mut [0]);
}

fn generate(home: &Path, endpoint: &str, name: &str, offline: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    command.args([
        "generate",
        "--model",
        name,
        "--prompt",
        "t5 t6 t7",
        "--max-new-tokens",
        "6",
        "--device",
        "cpu",
    ]);
    command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint).env("NO_PROXY", "127.0.0.1").current_dir(home);
    for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"] {
        command.env_remove(variable);
    }
    match offline {
        true => command.env("HF_HUB_OFFLINE", "1"),
        false => command.env_remove("HF_HUB_OFFLINE"),
    };
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_name_is_fetched_once_and_then_found_in_the_cache() {
    let home = tempfile::tempdir().unwrap();
    let (endpoint, handed) = hub();
    let from_folder = generate(home.path(), &endpoint, golden().to_str().unwrap(), true);
    assert!(from_folder.status.success(), "{}", text(&from_folder));

    let offline = generate(home.path(), &endpoint, NAME, true);
    assert!(!offline.status.success() && text(&offline).contains("HF_HUB_OFFLINE"), "{}", text(&offline));

    let fetched = generate(home.path(), &endpoint, NAME, false);
    assert_eq!(text(&fetched), text(&from_folder));
    assert_eq!(
        handed.load(Ordering::SeqCst),
        repository().len() - NOT_WANTED.len(),
        "only what a checkpoint needs"
    );

    for (endpoint, offline) in [(endpoint.as_str(), false), ("http://127.0.0.1:1", true)] {
        let again = generate(home.path(), endpoint, NAME, offline);
        assert_eq!(text(&again), text(&from_folder));
    }
    assert_eq!(
        handed.load(Ordering::SeqCst),
        repository().len() - NOT_WANTED.len(),
        "a file was fetched again"
    );

    let unreachable = generate(home.path(), "http://127.0.0.1:1", NAME, false);
    assert!(!unreachable.status.success() && text(&unreachable).contains(NAME), "{}", text(&unreachable));

    let unknown = generate(home.path(), &endpoint, "somebody/else", false);
    assert!(!unknown.status.success() && text(&unknown).contains("somebody/else"), "{}", text(&unknown));
}
