use std::fs;
use std::time::Duration;

use super::*;

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn environment(of: &[(&str, &str)]) -> Sources {
    Sources {
        environment: pairs(of),
        ..Sources::default()
    }
}

fn problems(sources: &Sources, roles: &[Role]) -> Vec<(String, Origin)> {
    let Problems(problems) = Config::load(sources, roles).unwrap_err();
    problems
        .into_iter()
        .map(|problem| (problem.key, problem.origin))
        .collect()
}

fn file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    (file, sources)
}

#[test]
fn embedded_defaults_are_those_of_the_types() {
    let (config, settings) = Config::load(&Sources::default(), &[]).unwrap();
    assert_eq!(config.log, LogConfig::default());
    assert_eq!(config.history, StoreConfig::default());
    assert_eq!(format!("{:?}", config.api), format!("{:?}", ApiConfig::default()));
    assert_eq!(config.ingest, IngestConfig::default());
    assert_eq!(config.dispatcher, DispatcherConfig::default());
    assert_eq!(config.projector, ProjectorConfig::default());
    assert_eq!(config.policy(), EgressPolicy::default());
    assert_eq!(config.listen.api, "127.0.0.1:7710".parse().unwrap());
    assert_eq!(config.listen.admin, "127.0.0.1:7711".parse().unwrap());
    assert!(!settings.is_set("listen.api"));
}

#[test]
fn every_key_is_described() {
    let mut above = "";
    for line in DEFAULTS.lines().filter(|line| !line.starts_with('[')) {
        assert!(
            line.is_empty() || line.starts_with('#') || above.starts_with('#'),
            "{line}"
        );
        above = line;
    }
}

#[test]
fn later_layers_go_over_earlier_ones() {
    let (_file, mut sources) = file("[log]\npartitions = 2\nreplicas = 3\nmax_age = \"30h\"\n");
    sources.preset = pairs(&[("log.partitions", "1"), ("log.name", "preset")]);
    sources.environment = pairs(&[
        ("CUITTY_WEBHOOKS__LOG__REPLICAS", "5"),
        ("CUITTY_WEBHOOKS__LOG__MAX_AGE", "40h"),
    ]);
    sources.flags = pairs(&[("log.max_age", "50h")]);
    let (config, settings) = Config::load(&sources, &[]).unwrap();
    assert_eq!(config.log.name, "preset");
    assert_eq!(config.log.partitions, 2);
    assert_eq!(config.log.replicas, 5);
    assert_eq!(config.log.max_age, Duration::from_hours(50));
    assert_eq!(settings.origin("log.max_age"), Origin::Flag);
    assert_eq!(
        settings.origin("log.replicas"),
        Origin::Environment("CUITTY_WEBHOOKS__LOG__REPLICAS".into())
    );
}

#[test]
fn environment_is_read_by_the_key_s_type() {
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__EGRESS__ALLOW_CIDRS", "10.0.0.0/8, fd00::/8"),
        ("CUITTY_WEBHOOKS__EGRESS__PORTS", "80,443"),
        ("CUITTY_WEBHOOKS__LOG__NAME", "0042"),
        ("CUITTY_WEBHOOKS__LOG__COMPRESSION", "false"),
        ("CUITTY_WEBHOOKS__DISPATCHER__LANES__MAX_ITEMS", "7"),
        ("CUITTY_WEBHOOKS__TELEMETRY__TRACE_SAMPLE_RATIO", "1"),
        ("CUITTY_WEBHOOKS_URL", "http://elsewhere:1"),
        ("PATH", "/bin"),
    ]);
    let (config, _) = Config::load(&sources, &[]).unwrap();
    assert_eq!(
        config.egress.allow_cidrs,
        [
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse::<IpNet>().unwrap()
        ]
    );
    assert_eq!(config.egress.ports, [80, 443]);
    assert_eq!(config.log.name, "0042");
    assert!(!config.log.compression);
    assert_eq!(config.dispatcher.lanes.max_items, 7);
    assert_eq!(config.telemetry.trace_sample_ratio.to_bits(), 1f64.to_bits());
}

#[test]
fn all_problems_are_listed_at_once() {
    let (_file, mut sources) = file(
        "[log]\npartitions = 65\nreplicas = \"three\"\nmax_age = \"soon\"\nbanana = 1\n\
         [egress]\nallow_cidrs = [\"10.0.0.0/8\", \"10.0.0.0/33\"]\n\
         [history]\nurl = \"mysql://db\"\n",
    );
    let path = sources.file.clone().unwrap();
    sources.environment = pairs(&[
        ("CUITTY_WEBHOOKS__LISTEN__API", "everywhere"),
        ("CUITTY_WEBHOOKS__SHUTDOWN__TIME_OUT", "1s"),
        ("CUITTY_WEBHOOKS__LOG__COMPRESSION", "maybe"),
        ("CUITTY_WEBHOOKS__DISPATCHER__MAX_IN_FLIGHT", "0"),
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY", "short"),
    ]);
    let mut found = problems(&sources, &[Role::Api]);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let from_file = || Origin::File(path.clone());
    let from_environment = |name: &str| Origin::Environment(format!("CUITTY_WEBHOOKS__{name}"));
    let expected = [
        ("api.admin_key", from_environment("API__ADMIN_KEY")),
        (
            "dispatcher.max_in_flight",
            from_environment("DISPATCHER__MAX_IN_FLIGHT"),
        ),
        ("egress.allow_cidrs", from_file()),
        ("history.url", from_file()),
        ("listen.api", from_environment("LISTEN__API")),
        ("log.banana", from_file()),
        ("log.compression", from_environment("LOG__COMPRESSION")),
        ("log.max_age", from_file()),
        ("log.partitions", from_file()),
        ("log.replicas", from_file()),
        ("sealing.keys", Origin::Default),
        ("shutdown.time_out", from_environment("SHUTDOWN__TIME_OUT")),
    ];
    assert_eq!(found, expected.map(|(key, origin)| (key.to_owned(), origin)));
}

#[test]
fn notifications_have_a_prefix_that_the_policy_knows_and_that_nobody_else_uses() {
    let with = |prefix| environment(&[("CUITTY_WEBHOOKS__DISPATCHER__NATS_PREFIX", prefix)]);
    let (config, _) = Config::load(&with("out.v1"), &[]).unwrap();
    assert_eq!(config.policy().nats_prefix.to_string(), "out.v1");
    for prefix in ["webhooks.out", "cuitty", "a..b", "$JS"] {
        let found: Vec<_> = problems(&with(prefix), &[])
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(found, ["dispatcher.nats_prefix"], "{prefix}");
    }
}

#[test]
fn what_the_projector_cannot_work_with_is_refused() {
    let (_file, sources) = file(
        "[projector]\nsweep_interval = \"0s\"\nsweep_after = \"0s\"\n\
         [projector.replay]\nrate = 10001\nmax_outstanding = 0\n",
    );
    let found = problems(&sources, &[Role::Projector]).into_iter();
    let mut found: Vec<_> = found.map(|(key, _)| key).collect();
    found.retain(|key| key.starts_with("projector."));
    found.sort();
    assert_eq!(
        found,
        [
            "projector.replay.max_outstanding",
            "projector.replay.rate",
            "projector.sweep_after",
            "projector.sweep_interval"
        ]
    );
}

#[test]
fn no_time_that_would_mean_for_ever_is_taken() {
    let (_file, sources) = file(
        "[log]\nidempotency_ttl = \"0s\"\n[history]\nacquire_timeout = \"0s\"\nstatement_timeout = \"0s\"\n",
    );
    let mut found: Vec<_> = problems(&sources, &[]).into_iter().map(|(key, _)| key).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "history.acquire_timeout",
            "history.statement_timeout",
            "log.idempotency_ttl"
        ]
    );
}

#[test]
fn a_log_that_forgets_a_request_before_its_last_retry_is_refused() {
    let key = "CUITTY_WEBHOOKS__LOG__MAX_AGE";
    for (max_age, is_long_enough) in [
        ("1h", false),
        ("24h", false),
        ("24h 59m 59s", false),
        ("25h", true),
    ] {
        let loaded = Config::load(&environment(&[(key, max_age)]), &[]);
        let keys = loaded.err().map(|Problems(problems)| {
            let keys = problems.into_iter().map(|problem| (problem.key, problem.origin));
            keys.collect::<Vec<_>>()
        });
        let refused = vec![("log.max_age".to_owned(), Origin::Environment(key.into()))];
        assert_eq!(keys, (!is_long_enough).then_some(refused), "{max_age}");
    }
}

#[test]
fn file_that_cannot_be_read_or_parsed_is_a_problem() {
    let missing = Sources {
        file: Some("/nonexistent/config.toml".into()),
        ..Sources::default()
    };
    assert_eq!(problems(&missing, &[])[0].0, "--config");
    let (_file, broken) = file("[log\n");
    assert_eq!(problems(&broken, &[])[0].0, "--config");
    let (_file, section) = file("log = 5\n");
    assert_eq!(problems(&section, &[])[0].0, "log");
}

#[test]
fn secrets_are_read_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let admin_key = put("admin", "an-admin-key-of-some-length\n");
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY_FILE", &admin_key),
        (
            "CUITTY_WEBHOOKS__SEALING__KEYS_FILE",
            &put("keys", &format!("{KEY}\n")),
        ),
        (
            "CUITTY_WEBHOOKS__HISTORY__URL_FILE",
            &put("url", "postgres://u:secret@db/webhooks\n"),
        ),
    ]);
    let (config, _) = Config::load(&sources, &Role::ALL).unwrap();
    assert!(config.api.admin_key.is_some());
    assert!(config.sealing.keys.is_some());
    assert_eq!(config.history.url, "postgres://u:secret@db/webhooks");

    let bad = environment(&[
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY_FILE", &admin_key),
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY", "another-admin-key-of-length"),
        ("CUITTY_WEBHOOKS__HISTORY__URL_FILE", "/nonexistent"),
        ("CUITTY_WEBHOOKS__SEALING__KEYS_FILE", &put("empty", "\n")),
        ("CUITTY_WEBHOOKS__LISTEN__API_FILE", &admin_key),
    ]);
    let mut keys: Vec<_> = problems(&bad, &[]).into_iter().map(|(key, _)| key).collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "api.admin_key_file",
            "history.url_file",
            "listen.api_file",
            "sealing.keys_file"
        ]
    );
}

#[test]
fn nothing_shows_a_secret() {
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY", "an-admin-key-of-some-length"),
        ("CUITTY_WEBHOOKS__SEALING__KEYS", KEY),
        (
            "CUITTY_WEBHOOKS__HISTORY__URL",
            "postgres://writer:hunter2@db/webhooks?password=hunter3",
        ),
        (
            "CUITTY_WEBHOOKS__LOG__URL",
            "nats://user:hunter4@a:4222,nats://hunter5@b:4222",
        ),
    ]);
    let (config, settings) = Config::load(&sources, &Role::ALL).unwrap();
    let shown = settings.show();
    for secret in ["an-admin-key", "AAECAwQF", "hunter"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
        for debug in [
            format!("{config:?}"),
            format!("{settings:?}"),
            format!("{sources:?}"),
        ] {
            assert!(!debug.contains(secret), "{secret} in {debug}");
        }
    }
    let (_file, again) = file(&shown);
    let tables = Settings::merge(&again, &mut Vec::new());
    assert!(tables.0.keys().eq(settings.0.keys()));
    assert_eq!(
        tables.origin("dispatcher.id"),
        Origin::File(again.file.unwrap()),
        "it is TOML"
    );
    assert!(
        shown.contains("keys = [\"k1:(hidden)\"] # CUITTY_WEBHOOKS__SEALING__KEYS"),
        "{shown}"
    );
    assert!(
        shown.contains("url = \"postgres://(hidden)@db/webhooks?…\""),
        "{shown}"
    );
    assert!(
        shown.contains("url = \"nats://(hidden)@a:4222,nats://(hidden)@b:4222\""),
        "{shown}"
    );
}

#[test]
fn servers_are_shown_without_what_stands_before_them() {
    for (urls, shown) in [
        ("nats://a:4222,user:pw@b:4222", "nats://a:4222,(hidden)@b:4222"),
        ("token@a:4222", "(hidden)@a:4222"),
        ("nats://u:p?w@a:4222?x=y", "nats://(hidden)@a:4222?…"),
        ("nats://u:p@w@a:4222", "nats://(hidden)@a:4222"),
        ("a:4222", "a:4222"),
        ("sqlite:/data/history.db", "sqlite:/data/history.db"),
    ] {
        assert_eq!(without_passwords(urls), shown);
    }
}

#[test]
fn a_file_that_is_no_toml_is_not_quoted() {
    let (_file, broken) = file("[api]\nadmin_key = \"hunter2\n");
    let text = Config::load(&broken, &[]).unwrap_err().to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("line 2, column "), "{text}");
    let (_file, wrong) = file("[sealing]\nkeys = \"hunter2\"\n");
    let text = Config::load(&wrong, &[]).unwrap_err().to_string();
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn bad_secrets_are_not_repeated_in_the_problem() {
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__API__ADMIN_KEY", "short-secret"),
        ("CUITTY_WEBHOOKS__SEALING__KEYS", "k1:c2hvcnQ"),
    ]);
    let problems = Config::load(&sources, &Role::ALL).unwrap_err();
    assert_eq!(
        problems
            .0
            .iter()
            .map(|problem| problem.key.as_str())
            .collect::<Vec<_>>(),
        ["api.admin_key", "sealing.keys"]
    );
    let text = problems.to_string();
    assert!(
        !text.contains("short-secret") && !text.contains("c2hvcnQ"),
        "{text}"
    );
}

#[test]
fn files_of_tls_are_read_for_the_api_and_for_nobody_else() {
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__API__TLS__CERT_FILE", "/nonexistent/cert.pem"),
        ("CUITTY_WEBHOOKS__API__TLS__KEY_FILE", "/nonexistent/key.pem"),
        ("CUITTY_WEBHOOKS__SEALING__KEYS", KEY),
    ]);
    let from = |name: &str| Origin::Environment(format!("CUITTY_WEBHOOKS__API__TLS__{name}"));
    let expected = vec![
        ("api.tls.cert_file".to_owned(), from("CERT_FILE")),
        ("api.tls.key_file".to_owned(), from("KEY_FILE")),
    ];
    assert_eq!(problems(&sources, &[Role::Api]), expected);
    let (config, settings) = Config::load(&sources, &[Role::Dispatcher]).unwrap();
    let Problems(found) = config.check_files(&settings).unwrap_err();
    let found: Vec<_> = found
        .into_iter()
        .map(|problem| (problem.key, problem.origin))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn files_of_connections_are_read_for_the_roles_that_connect() {
    let sources = environment(&[
        ("CUITTY_WEBHOOKS__LOG__CA_FILE", "/nonexistent/ca.pem"),
        (
            "CUITTY_WEBHOOKS__HISTORY__URL",
            "postgres://u:hunter2@db/history?sslmode=verify-full&sslrootcert=/nonexistent/ca.crt",
        ),
        ("CUITTY_WEBHOOKS__SEALING__KEYS", KEY),
    ]);
    for (roles, expected) in [
        (&[][..], &["log.ca_file", "history.url"][..]),
        (&[Role::Projector], &["log.ca_file", "history.url"]),
        (&[Role::Dispatcher], &["log.ca_file"]),
    ] {
        let (config, settings) = Config::load(&sources, roles).unwrap();
        let problems = config.check_connections(&settings, roles).unwrap_err();
        let keys: Vec<_> = problems.0.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, expected, "{roles:?}");
        assert!(!problems.to_string().contains("hunter2"), "{problems}");
    }
}

#[test]
fn an_inbox_prefix_is_a_subject() {
    for (prefix, accepted) in [
        ("_INBOX.webhooks-api", true),
        ("_INBOX.>", false),
        ("a b", false),
        ("a..b", false),
    ] {
        let sources = environment(&[("CUITTY_WEBHOOKS__LOG__INBOX_PREFIX", prefix)]);
        assert_eq!(Config::load(&sources, &[]).is_ok(), accepted, "{prefix}");
    }
}

#[test]
fn half_of_tls_is_refused_for_every_role() {
    for (key, missing) in [
        ("CERT_FILE", "api.tls.key_file"),
        ("KEY_FILE", "api.tls.cert_file"),
        ("CLIENT_CA_FILE", "api.tls.cert_file"),
    ] {
        let name = format!("CUITTY_WEBHOOKS__API__TLS__{key}");
        let sources = environment(&[(&name, "/nonexistent")]);
        let keys: Vec<_> = problems(&sources, &[]).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [missing], "{key}");
    }
}

#[test]
fn an_ingest_process_needs_no_sealing_keys_and_has_bounds() {
    assert!(Config::load(&Sources::default(), &[Role::Ingest]).is_ok());
    for (value, is_good) in [("0", false), ("1", true), ("10000", true), ("10001", false)] {
        let sources = environment(&[("CUITTY_WEBHOOKS__INGEST__MAX_IN_FLIGHT", value)]);
        assert_eq!(Config::load(&sources, &[]).is_ok(), is_good, "{value}");
    }
}

#[test]
fn an_api_that_could_take_nothing_is_refused() {
    for (key, bad, good) in [
        ("MAX_CONNECTIONS", "0", "1"),
        ("MAX_STREAMS_PER_CONNECTION", "0", "1"),
        ("MAX_CONCURRENT_ACCEPTS", "0", "1"),
        ("MAX_DELIVER_STREAMS", "0", "1"),
        ("MAX_WATCHERS", "1000001", "1000000"),
        ("WATCH_BUFFER", "0", "1"),
        ("HEADER_READ_TIMEOUT", "0s", "1ms"),
        ("REQUEST_TIMEOUT", "0s", "1ms"),
        ("KEEPALIVE_INTERVAL", "0s", "1ms"),
        ("KEEPALIVE_TIMEOUT", "0s", "1ms"),
        ("RESOLVE_TIMEOUT", "0s", "1ms"),
    ] {
        let name = format!("CUITTY_WEBHOOKS__API__{key}");
        let found = problems(&environment(&[(&name, bad)]), &[]);
        let expected = (
            format!("api.{}", key.to_lowercase()),
            Origin::Environment(name.clone()),
        );
        assert_eq!(found, [expected]);
        assert!(
            Config::load(&environment(&[(&name, good)]), &[]).is_ok(),
            "{name}={good}"
        );
    }
}

#[test]
fn headers_for_the_collector_are_read_and_never_shown() {
    let value = "authorization=Bearer a:b=c, x-tenant=acme";
    let sources = environment(&[("CUITTY_WEBHOOKS__TELEMETRY__OTLP_HEADERS", value)]);
    let (config, settings) = Config::load(&sources, &[]).unwrap();
    let metadata = config.telemetry.otlp_headers.metadata();
    assert_eq!(metadata.get("authorization").unwrap(), "Bearer a:b=c");
    assert_eq!(metadata.get("x-tenant").unwrap(), "acme");
    let shown = settings.show();
    assert!(
        shown.contains(r#"otlp_headers = ["authorization=(hidden)", "x-tenant=(hidden)"]"#),
        "{shown}"
    );
    assert!(!format!("{config:?}").contains("Bearer"));
    for wrong in ["authorization: Bearer x", "a b=c", "ä=b"] {
        let sources = environment(&[("CUITTY_WEBHOOKS__TELEMETRY__OTLP_HEADERS", wrong)]);
        let Problems(found) = Config::load(&sources, &[]).unwrap_err();
        assert_eq!(found[0].key, "telemetry.otlp_headers", "{wrong}");
        assert!(!found[0].message.contains("Bearer"), "{}", found[0].message);
    }
}

#[test]
fn how_telemetry_is_sent_has_bounds() {
    for (key, bad, good) in [
        ("OTLP_ENDPOINT", "collector:4317", "https://collector:4317"),
        ("OTLP_TIMEOUT", "0s", "1ms"),
        ("OTLP_METRICS_INTERVAL", "999ms", "0s"),
        ("TRACE_SAMPLE_RATIO", "1.1", "1"),
    ] {
        let name = format!("CUITTY_WEBHOOKS__TELEMETRY__{key}");
        let found = problems(&environment(&[(&name, bad)]), &[]);
        let key = format!("telemetry.{}", key.to_lowercase());
        assert_eq!(found, [(key, Origin::Environment(name.clone()))]);
        assert!(Config::load(&environment(&[(&name, good)]), &[]).is_ok());
    }
}
