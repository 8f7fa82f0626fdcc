//! Rewards from HTTP endpoints, over a socket.
#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kyoka_core::{Completion, MediaRef, Modality, Part, Reward, RewardContext, RewardFn, Sample};
use kyoka_reward::HttpReward;

/// What an endpoint was asked: its head and body.
type Asked = Arc<Mutex<Vec<(String, serde_json::Value)>>>;

/// Answers each request by what `answer` makes of its number and body: status line, further headers, body.
fn endpoint(
    answer: impl Fn(usize, &serde_json::Value) -> (String, String) + Send + Sync + 'static,
) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/judge", listener.local_addr().unwrap());
    let (asked, answer) = (Asked::default(), Arc::new(answer));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen, answer) = (stream.unwrap(), seen.clone(), answer.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                        break;
                    }
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push_str(&lower);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((head, body.clone()));
                    seen.len() - 1
                };
                let (head, body) = answer(number, &body);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            });
        }
    });
    (url, asked)
}

fn reward(url: &str, settings: &str) -> HttpReward {
    let mut table: toml::Table = settings.parse().unwrap();
    table.insert("url".to_owned(), url.into());
    HttpReward::read(table).unwrap()
}

fn judged(rule: &HttpReward) -> Vec<Reward> {
    let mut row = Sample { id: "r1".to_owned(), ..Sample::default() };
    row.extra.insert("severity".to_owned(), 3.into());
    let completions = ["a", "b"].map(|text| Completion { text: text.to_owned(), ..Completion::default() });
    rule.judge(&RewardContext::of(&row), &completions).unwrap()
}

const GOOD: &str = r#"{"rewards": [1, {"total": 0.5, "parts": {"tone": 0.25}}]}"#;

#[test]
fn an_endpoint_is_handed_the_row_and_gives_rewards() {
    let (url, asked) = endpoint(|_, _| ("200 OK".to_owned(), GOOD.to_owned()));
    let rewards = judged(&reward(&url, "token_env = 'PATH'\nheaders = { x-team = 'line 4' }"));
    assert_eq!(
        (rewards[0].total, rewards[1].total, rewards[1].part("http.tone")),
        (Some(1.0), Some(0.5), Some(0.25))
    );
    let (head, body) = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with("post /judge http/1.1") && head.contains("x-team: line 4"), "{head}");
    assert!(head.contains("authorization: bearer /"), "{head}");
    assert_eq!((&body["sample"]["severity"], &body["completions"][1]["text"]), (&3.into(), &"b".into()));
}

#[test]
fn what_may_come_the_next_time_is_asked_for_again() {
    let (url, asked) = endpoint(|number, _| match number {
        0 => ("503 Busy".to_owned(), "wait".to_owned()),
        1 => ("429 Slow down\r\nretry-after: 1".to_owned(), String::new()),
        2 => ("200 OK".to_owned(), "<html>".to_owned()),
        _ => ("200 OK".to_owned(), GOOD.to_owned()),
    });
    let started = Instant::now();
    assert_eq!(judged(&reward(&url, ""))[0].total, Some(1.0));
    assert_eq!(asked.lock().unwrap().len(), 4);
    assert!(started.elapsed() >= Duration::from_secs(1), "as long as it was asked to wait");
}

#[test]
fn each_failure_says_what_it_is_and_nothing_is_0() {
    let fault = |rule: &HttpReward| {
        let rewards = judged(rule);
        assert!(rewards.iter().all(|reward| reward.total.is_none()), "{rewards:?}");
        rewards[0].fault.clone().unwrap()
    };
    let (url, asked) = endpoint(|_, _| ("401 Unauthorized".to_owned(), "who are you?".to_owned()));
    assert_eq!(
        fault(&reward(&url, "")),
        format!("{url}: row r1: expected status 200, got 401 Unauthorized: who are you?")
    );
    assert_eq!(asked.lock().unwrap().len(), 1, "no use in asking again");
    let (url, asked) =
        endpoint(|_, _| ("307 Moved\r\nlocation: http://127.0.0.1:9/".to_owned(), String::new()));
    assert!(fault(&reward(&url, "")).contains("got 307"), "no question goes elsewhere");
    assert_eq!(asked.lock().unwrap().len(), 1);
    let (url, asked) = endpoint(|_, _| ("500 Oh".to_owned(), String::new()));
    assert!(fault(&reward(&url, "retries = 2")).ends_with("got 500 Internal Server Error:  (3 tries)"));
    assert_eq!(asked.lock().unwrap().len(), 3);
    let (url, _) = endpoint(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        ("200 OK".to_owned(), GOOD.to_owned())
    });
    let said = fault(&reward(&url, "retries = 0\ntime_limit_s = 0.2"));
    assert!(said.ends_with("expected an answer within 0.2 s, got none"), "{said}");
    let (url, _) = endpoint(|_, _| ("200 OK".to_owned(), "x".repeat(17 << 20)));
    let said = fault(&reward(&url, "retries = 0"));
    assert!(said.ends_with("expected an answer of at most 16777216 bytes, got a longer one"), "{said}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = fault(&reward(&format!("http://{closed}/"), "retries = 1"));
    assert!(said.contains("efused") && said.ends_with("(2 tries)"), "{said}");
}

#[test]
fn settings_out_of_range_are_refused() {
    for (settings, expected) in [
        ("url = 'ftp://a'", "url: expected http://… or https://…, got \"ftp://a\""),
        (
            "url = 'http://127.0.0.1:99999/a'",
            "url: expected http://… or https://…, got \"http://127.0.0.1:99999/a\"",
        ),
        ("url = 'http:'", "url: expected http://… or https://…, got \"http:\""),
        (
            "url = 'http://a'\ntoken_env = 'KYOKA_NOT_SET'",
            "token_env: expected an environment variable that is set, got KYOKA_NOT_SET",
        ),
        ("url = 'http://a'\nconcurrency = 65", "concurrency: expected a number from 1 to 64, got 65"),
    ] {
        let said = HttpReward::read(settings.parse().unwrap()).err().unwrap().to_string();
        assert_eq!(said, expected);
    }
    #[cfg(not(feature = "tls"))]
    {
        let said = HttpReward::read("url = 'https://a'".parse().unwrap()).err().unwrap().to_string();
        assert!(
            said.starts_with("url: expected http://…, as this program was built without `tls`"),
            "{said}"
        );
    }
}

const CHAT: &str = r#"{"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Fine.\nScore: 8"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 40, "completion_tokens": 6}}"#;

#[test]
fn a_judge_behind_an_endpoint_sees_hears_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, sound) = (folder.path().join("a.png"), folder.path().join("a.wav"));
    std::fs::write(&picture, b"\x89PNG-and-more").unwrap();
    std::fs::write(&sound, b"RIFF....WAVE").unwrap();
    let (url, asked) = endpoint(|number, _| match number {
        0 => ("503 Busy".to_owned(), String::new()),
        1 => ("200 OK".to_owned(), r#"{"choices": []}"#.to_owned()),
        _ => ("200 OK".to_owned(), CHAT.to_owned()),
    });
    let base = url.replace("/judge", "/v1/");
    let settings =
        toml::from_str(&format!("url = {base:?}\nmodel = 'tiny'\ntoken_env = 'PATH'\nmax_new_tokens = 99"))
            .unwrap();
    let judge = kyoka_reward::Judge::at_endpoint(settings).unwrap();
    let media = [(Modality::Image, &picture), (Modality::Audio, &sound)];
    let media = media.map(|(modality, path)| Part::Media(MediaRef::file(modality, path)));
    let row = Sample::asking([&media[..], &[Part::Text("What is it?".to_owned())]].concat());
    let completion = Completion { text: "a cup".to_owned(), ..Completion::default() };
    let rewards = judge.judge(&RewardContext::of(&row), &[completion]).unwrap();
    assert_eq!((rewards[0].total, &rewards[0].fault), (Some(0.8), &None));
    let asked = asked.lock().unwrap();
    let (head, body) = &asked[2];
    assert!(
        head.starts_with("post /v1/chat/completions http/1.1") && head.contains("authorization: bearer /"),
        "{head}"
    );
    assert_eq!(
        (&body["model"], &body["max_tokens"], &body["temperature"]),
        (&"tiny".into(), &99.into(), &0.0.into())
    );
    assert!(body["messages"][0]["content"].is_string(), "words alone are one text");
    let shown = body["messages"][1]["content"].as_array().unwrap();
    let picture = shown.iter().find(|part| part["type"] == "image_url").unwrap();
    assert_eq!(picture["image_url"]["url"], "data:image/png;base64,iVBORy1hbmQtbW9yZQ==");
    let sound = shown.iter().find(|part| part["type"] == "input_audio").unwrap();
    assert_eq!(
        (&sound["input_audio"]["format"], &sound["input_audio"]["data"]),
        (&"wav".into(), &"UklGRi4uLi5XQVZF".into())
    );
    let counters: std::collections::BTreeMap<String, f64> = judge.counters().into_iter().collect();
    assert_eq!(
        (counters["judge/requests"], counters["judge/input_tokens"], counters["judge/output_tokens"]),
        (1.0, 40.0, 6.0)
    );
}
