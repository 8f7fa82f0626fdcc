//! A reward from an HTTP endpoint.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, SettingsFault, own};
use serde::{Deserialize, Serialize};
use toml::Table;
use ureq::Agent;

use super::{Ask, External, LONGEST_ANSWER, NoAnswer, Patience, external};

/// Asks an HTTP endpoint: `POST` with a question as JSON, answered by rewards as JSON, both as [`ProgramReward`](crate::ProgramReward)
/// has them.
///
/// It is asked again where it cannot be reached, does not answer in time, or answers 408, 429 or from 500 on; a `Retry-After`
/// of up to 8 seconds is kept to. Any other status, and what no try answers, leaves the completions ungraded and is reported.
pub struct HttpReward(External<Endpoint>);

/// Settings of [`HttpReward`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRewardSettings {
    /// Where questions go: `http://…`, or `https://…` in a program built with `tls`.
    pub url: String,
    /// An environment variable with a token, which is sent as `Authorization: Bearer …`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Further headers; they stand in the run's recipe, so no secrets. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Seconds that an answer may take, above 0. Default 60.
    #[serde(default = "minute")]
    pub time_limit_s: f64,
    /// Further tries, at most 10. Default 3.
    #[serde(default = "thrice")]
    pub retries: u32,
    /// Questions at the same time, from 1 to 64. Default 8.
    #[serde(default = "eight")]
    pub concurrency: usize,
}

fn minute() -> f64 {
    60.0
}

fn thrice() -> u32 {
    3
}

fn eight() -> usize {
    8
}

impl OwnSettings for HttpRewardSettings {
    fn check(&self) -> Result<(), SettingsFault> {
        Patience::new(self.time_limit_s, self.retries, self.concurrency)?;
        check_address(&self.url).map_err(|reason| SettingsFault::at("url", reason))
    }
}

/// Refuses what is no address of HTTP, or needs TLS where there is none.
pub(crate) fn check_address(url: &str) -> Result<(), String> {
    let parsed: Result<ureq::http::Uri, _> = url.parse();
    // A port that is none would be left out, and another one asked.
    let has_port = |uri: &ureq::http::Uri| {
        let place = uri.authority().map_or("", |authority| authority.as_str());
        let behind = place.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        behind.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    let whole = |uri: &&ureq::http::Uri| uri.host().is_some() && has_port(uri);
    let scheme = parsed.as_ref().ok().filter(whole).and_then(|uri| uri.scheme_str());
    match scheme {
        Some("http") => Ok(()),
        Some("https") if cfg!(feature = "tls") => Ok(()),
        Some("https") => {
            Err(format!("expected http://…, as this program was built without `tls`, got {url:?}"))
        }
        _ => Err(format!("expected http://… or https://…, got {url:?}")),
    }
}

/// The header with the token that an environment variable holds.
///
/// # Errors
/// If it is not set.
pub(crate) fn token(name: Option<&str>) -> Result<Option<(String, String)>, SettingsFault> {
    let Some(name) = name else { return Ok(None) };
    let unset = |_| {
        let reason = format!("expected an environment variable that is set, got {name}");
        SettingsFault::at("token_env", reason)
    };
    let token = std::env::var(name).map_err(unset)?;
    Ok(Some(("authorization".to_owned(), format!("Bearer {token}"))))
}

impl HttpReward {
    /// A reward from settings; asks nothing.
    ///
    /// # Errors
    /// If a setting is out of range, or the variable with the token is not set.
    pub fn read(settings: Table) -> Result<Self, SettingsFault> {
        let settings: HttpRewardSettings = own(settings)?;
        let patience = Patience::new(settings.time_limit_s, settings.retries, settings.concurrency)?;
        let mut headers: Vec<(String, String)> = settings.headers.into_iter().collect();
        headers.extend(token(settings.token_env.as_deref())?);
        Ok(Self(External::new(Endpoint::new(settings.url, headers), patience)))
    }
}

external!(HttpReward);

/// An endpoint that takes JSON.
pub(crate) struct Endpoint {
    url: String,
    headers: Vec<(String, String)>,
    agent: Agent,
}

impl Endpoint {
    pub fn new(url: String, headers: Vec<(String, String)>) -> Self {
        // Statuses are looked at here; an answer from elsewhere than what was named is none.
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).build();
        Self { url, headers, agent: config.into() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The body of an answer of status 200.
    pub fn post(&self, body: &str, limit: Duration) -> Result<String, NoAnswer> {
        let mut asked = self.agent.post(&self.url).header("content-type", "application/json");
        for (name, value) in &self.headers {
            asked = asked.header(name, value);
        }
        let asked = asked.config().timeout_global(Some(limit.max(Duration::from_millis(1)))).build();
        let mut answered = asked.send(body).map_err(|error| NoAnswer::now(reason_of(&error, limit)))?;
        let status = answered.status();
        let pause = answered.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answered.body_mut().with_config().limit(LONGEST_ANSWER as u64).read_to_string();
        let body = body.map_err(|error| NoAnswer::now(reason_of(&error, limit)))?;
        if status.is_success() {
            return Ok(body);
        }
        let again = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        let said: String = body.trim().chars().take(200).collect();
        let reason = format!("expected status 200, got {status}: {said}");
        Err(NoAnswer { reason, again, pause: pause.map(Duration::from_secs) })
    }
}

fn reason_of(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => {
            format!("expected an answer within {:.1} s, got none", limit.as_secs_f64())
        }
        ureq::Error::BodyExceedsLimit(_) => {
            format!("expected an answer of at most {LONGEST_ANSWER} bytes, got a longer one")
        }
        other => other.to_string(),
    }
}

impl Ask for Endpoint {
    const NAME: &'static str = "http";
    const IS_NUMBERED: bool = false;

    fn judge(&self) -> String {
        self.url.clone()
    }

    fn ask(&self, request: &str, deadline: Instant) -> Result<String, NoAnswer> {
        self.post(request, deadline.saturating_duration_since(Instant::now()))
    }
}
