//! The settings of a cluster: where etcd is, what this server is called there, and where others
//! reach it.

use std::path::PathBuf;
use std::time::Duration;

use super::access::secret;
use super::{
    ADMIN_TOKEN, ADVERTISE, ADVERTISE_GRPC, ADVERTISE_WEB, ConfigError, ETCD, ETCD_CA, ETCD_CERT,
    ETCD_KEY, ETCD_PASSWORD, ETCD_PASSWORD_FILE, ETCD_PREFIX, ETCD_TTL, ETCD_USER, GRPC, Given,
    Listen, NODE_ID, Setting, Source,
};
use crate::admin::guard::Guard;
use crate::cluster::node::{Address, NodeId};
use crate::cluster::options::{EtcdOptions, Password};
use crate::limits::ETCD_PREFIX_CHARS_MAX;

/// Where gRPC listens, if it does. Without the token it is for this machine alone.
pub(super) fn grpc(source: &Source<'_>, guard: &Guard) -> Result<Option<Listen>, ConfigError> {
    let Some(given) = source.optional(&GRPC)? else {
        return Ok(None);
    };
    built_in(&given)?;
    let listen = given.listen()?;
    if !listen.is_loopback() && !matches!(guard, Guard::Token(_)) {
        return Err(given.unfit(format!(
            "{:?} is open to other machines and nothing protects it; set {}, or listen on this \
             machine alone: --grpc 127.0.0.1:{}",
            given.text,
            ADMIN_TOKEN.flag(),
            listen.port(),
        )));
    }
    Ok(Some(listen))
}

/// What there is of the network's settings when the cluster's are read.
pub(super) struct Listens {
    pub(super) udp: Listen,
    pub(super) web: Listen,
    pub(super) grpc: Option<Listen>,
}

/// Where etcd is and what this server tells there; `None` without `--etcd`.
pub(super) fn etcd(
    source: &Source<'_>,
    listens: &Listens,
) -> Result<Option<EtcdOptions>, ConfigError> {
    let Some(given) = source.optional(&ETCD)? else {
        return without_etcd(source);
    };
    built_in(&given)?;
    if given.text.contains('@') {
        // The text is not shown: it may have a password in it.
        return Err(given.unfit(format!(
            "names a user; give the user with {} and the password with {}",
            ETCD_USER.flag(),
            ETCD_PASSWORD_FILE.flag()
        )));
    }
    let endpoints: Vec<String> = given.text.split(',').map(|url| url.trim().into()).collect();
    if !endpoints.iter().all(|url| is_url(url)) {
        return Err(given.unlike());
    }
    let node = needed(
        source,
        &given,
        &NODE_ID,
        "the name of this server among the others",
    )?;
    let node = NodeId::new(&node.text).ok_or_else(|| node.unlike())?;
    let kcp = needed(
        source,
        &given,
        &ADVERTISE,
        "where players reach this server",
    )?;
    let kcp = address(&kcp, listens.udp.port())?;
    let of_kcp = |listen: Listen| {
        let same = Address::new(&format!("{}:{}", kcp.host(), listen.port()));
        // What listens on this machine alone is reached by others if they are there, too.
        same.filter(|_| !listen.is_loopback() || is_loopback(&kcp))
    };
    let http = match source.optional(&ADVERTISE_WEB)? {
        Some(given) => Some(address(&given, listens.web.port())?),
        None => of_kcp(listens.web),
    };
    let grpc = match (source.optional(&ADVERTISE_GRPC)?, listens.grpc) {
        (Some(given), Some(listen)) => Some(address(&given, listen.port())?),
        (Some(given), None) => {
            let flag = GRPC.flag();
            return Err(given.unfit(format!("is given, but there is no gRPC; add {flag}")));
        }
        (None, listen) => listen.and_then(of_kcp),
    };
    let prefix = source.given(&ETCD_PREFIX)?;
    Ok(Some(EtcdOptions {
        endpoints,
        user: user(source)?,
        ca: source
            .optional(&ETCD_CA)?
            .map(|file| PathBuf::from(file.text)),
        identity: identity(source)?,
        prefix: Some(prefix.text.trim_end_matches('/').to_owned())
            .filter(|text| is_prefix(text))
            .ok_or_else(|| prefix.unlike())?,
        ttl: ttl(source)?,
        node,
        kcp,
        http,
        grpc,
    }))
}

/// etcd counts whole seconds: with part of one dropped, this server would be forgotten earlier than
/// it believes.
fn ttl(source: &Source<'_>) -> Result<Duration, ConfigError> {
    let given = source.given(&ETCD_TTL)?;
    let ttl = given.seconds()?;
    match ttl.subsec_nanos() {
        0 => Ok(ttl),
        _ => Err(given.unfit(format!(
            "{:?} is not whole; etcd counts in whole seconds, such as {}",
            given.text,
            ttl.as_secs()
        ))),
    }
}

/// A setting that etcd makes necessary.
fn needed(
    source: &Source<'_>,
    etcd: &Given,
    setting: &'static Setting,
    what: &str,
) -> Result<Given, ConfigError> {
    source.optional(setting)?.ok_or_else(|| {
        let (flag, right) = (setting.flag(), setting.right());
        etcd.unfit(format!("is given, so {flag} must say {what}: {right}"))
    })
}

/// An address that others connect to; without a port, that of what listens.
fn address(given: &Given, port: u16) -> Result<Address, ConfigError> {
    let text = given.text.as_str();
    let has_port = text.rsplit_once(':').is_some_and(|(host, _)| {
        !host.contains(':') || (host.starts_with('[') && host.ends_with(']'))
    });
    let whole = match (has_port, text.contains(':') && !text.starts_with('[')) {
        (true, _) => text.to_owned(),
        // An IPv6 address alone.
        (false, true) => format!("[{text}]:{port}"),
        (false, false) => format!("{text}:{port}"),
    };
    Address::new(&whole).ok_or_else(|| given.unlike())
}

fn is_loopback(address: &Address) -> bool {
    let host = address.host().trim_matches(['[', ']']);
    let ip = host.parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| Address::new(rest.trim_end_matches('/')).is_some())
}

/// `/lockstep`, `/games/chess`: printable, begins with a slash and has something behind it.
fn is_prefix(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic();
    let short = (2..=ETCD_PREFIX_CHARS_MAX).contains(&text.len());
    short && text.starts_with('/') && text.bytes().all(fits)
}

fn user(source: &Source<'_>) -> Result<Option<(String, Password)>, ConfigError> {
    let password = secret(source, &ETCD_PASSWORD, &ETCD_PASSWORD_FILE, 1)?;
    match (source.optional(&ETCD_USER)?, password) {
        (None, None) => Ok(None),
        (Some(user), Some(password)) => {
            let [password] = <[String; 1]>::try_from(password.lines).expect("it has one line");
            Ok(Some((user.text, Password(password))))
        }
        (Some(user), None) => Err(user.unfit(format!(
            "needs a password; give it with {} or {}",
            ETCD_PASSWORD_FILE.flag(),
            ETCD_PASSWORD.variable()
        ))),
        (None, Some(password)) => Err(password.given.unfit(format!(
            "is given, but nobody whose password it is; add {}",
            ETCD_USER.flag()
        ))),
    }
}

fn identity(source: &Source<'_>) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (source.optional(&ETCD_CERT)?, source.optional(&ETCD_KEY)?) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((cert.text.into(), key.text.into()))),
        (Some(lone), None) => Err(lone.unfit(format!("goes with {}; add it", ETCD_KEY.flag()))),
        (None, Some(lone)) => Err(lone.unfit(format!("goes with {}; add it", ETCD_CERT.flag()))),
    }
}

/// Who says how to find etcd or others believes that this server is part of a cluster.
fn without_etcd(source: &Source<'_>) -> Result<Option<EtcdOptions>, ConfigError> {
    for setting in [
        &NODE_ID,
        &ADVERTISE,
        &ADVERTISE_WEB,
        &ADVERTISE_GRPC,
        &ETCD_USER,
        &ETCD_PASSWORD,
        &ETCD_PASSWORD_FILE,
        &ETCD_CA,
        &ETCD_CERT,
        &ETCD_KEY,
        &ETCD_PREFIX,
        &ETCD_TTL,
    ] {
        if let Some(given) = source.optional(setting)? {
            return Err(given.unfit(format!(
                "is given, but without {} this server is alone; add it, or leave this out",
                ETCD.flag()
            )));
        }
    }
    Ok(None)
}

/// Whether this program can do it at all.
fn built_in(given: &Given) -> Result<(), ConfigError> {
    if cfg!(feature = "cluster") {
        return Ok(());
    }
    Err(given.unfit("is not in this program: it was built without the feature cluster".into()))
}
