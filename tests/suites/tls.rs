//! TLS of the API's listener, as curl and grpcio see it.

use std::path::Path;
use std::process::{Command, Output};

use harness::app::{Builder, TestApp};
use harness::certificates::{Authority, Certified};
use harness::cli;
use harness::nats::nowhere;
use harness::python;
use harness::roles::{ADMIN_KEY, Settings, command};
use serde_json::json;

fn with_tls(server: &Certified) -> Builder {
    TestApp::builder()
        .processes(["api,projector"])
        .set("api.tls.cert_file", server.cert.display())
        .set("api.tls.key_file", server.key.display())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `host:port` of the API.
fn target(app: &TestApp) -> String {
    app.url().trim_start_matches("http://").to_owned()
}

/// The status over REST, with curl: the HTTP status and version, or what curl exits with.
async fn curl(app: &TestApp, arguments: &[&str]) -> Result<String, i32> {
    let url = format!("https://{}/api/webhooks/status", target(app));
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{http_version}",
        ])
        .args(["--max-time", "10"])
        .args(arguments)
        .arg(url);
    let ran = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap();
    let Output { status, stdout, .. } = ran.expect("run curl");
    match status.code() {
        Some(0) => Ok(String::from_utf8(stdout).unwrap()),
        code => Err(code.unwrap()),
    }
}

#[tokio::test]
async fn rest_and_grpc_share_a_listener_that_speaks_nothing_but_tls() {
    let authority = Authority::new();
    let app = with_tls(&authority.certify("server")).start().await;
    let ca = authority.cert();
    let ca = text(&ca);

    assert_eq!(curl(&app, &["--cacert", ca]).await.as_deref(), Ok("200 2"));
    assert_eq!(
        curl(&app, &["--cacert", ca, "--http1.1"]).await.as_deref(),
        Ok("200 1.1")
    );
    assert_eq!(
        curl(&app, &["--cacert", ca, "--tls-max", "1.2"]).await.as_deref(),
        Ok("200 2")
    );
    let none = curl(
        &app,
        &[
            "--cacert",
            ca,
            "--tls-max",
            "1.1",
            "--ciphers",
            "DEFAULT@SECLEVEL=0",
        ],
    )
    .await;
    assert!(none.is_err(), "{none:?}");
    let by_grpc = python::run("suites/tls/status.py", &[&target(&app), ca]).await;
    assert_eq!(by_grpc, json!("OK"));

    // Whom nobody vouches for is not talked to, and neither is who talks in the clear.
    let another = Authority::new();
    let untrusting = curl(&app, &["--cacert", text(&another.cert())]).await;
    assert_eq!(untrusting, Err(60), "the certificate cannot be verified");
    let in_the_clear = app.rest().try_get("/api/webhooks/status").await;
    assert!(in_the_clear.is_err());
}

#[tokio::test]
async fn with_authorities_for_clients_only_those_with_a_certificate_are_let_in() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let app = with_tls(&authority.certify("server"))
        .set("api.tls.client_ca_file", clients.cert().display())
        .start()
        .await;
    let ca = authority.cert();
    let ca = text(&ca);
    let client = clients.certify("client");
    let with = |client: &Certified| [client.cert.clone(), client.key.clone()];

    let [cert, key] = with(&client);
    let answered = curl(
        &app,
        &["--cacert", ca, "--cert", text(&cert), "--key", text(&key)],
    )
    .await;
    assert_eq!(answered.as_deref(), Ok("200 2"));
    let by_grpc = python::run(
        "suites/tls/status.py",
        &[&target(&app), ca, text(&cert), text(&key)],
    )
    .await;
    assert_eq!(by_grpc, json!("OK"));

    assert!(curl(&app, &["--cacert", ca]).await.is_err());
    let by_grpc = python::run("suites/tls/status.py", &[&target(&app), ca]).await;
    assert_eq!(by_grpc, json!("UNAVAILABLE"));
    // One of the server's authority is none of a client's.
    let [cert, key] = with(&authority.certify("stranger"));
    let refused = curl(
        &app,
        &["--cacert", ca, "--cert", text(&cert), "--key", text(&key)],
    )
    .await;
    assert!(refused.is_err(), "{refused:?}");
    let by_grpc = python::run(
        "suites/tls/status.py",
        &[&target(&app), ca, text(&cert), text(&key)],
    )
    .await;
    assert_eq!(by_grpc, json!("UNAVAILABLE"));
}

/// `status`-like calls of the command line over TLS: one over gRPC, one of `mcp`.
fn command_line(app: &TestApp, files: &[(&str, &Path)]) -> [cli::Ran; 2] {
    let url = format!("https://{}", target(app));
    let calls = [
        (&["keys", "list", "--json"][..], ""),
        (&["mcp"], r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
    ];
    calls.map(|(arguments, input)| {
        let mut command = cli::command(&url, ADMIN_KEY, arguments);
        command.envs(files.iter().copied());
        cli::run_command(command, input)
    })
}

#[tokio::test]
async fn the_command_line_and_the_client_crate_speak_tls() {
    const CA: &str = "CUITTY_WEBHOOKS_CA_FILE";
    const CERT: &str = "CUITTY_WEBHOOKS_CERT_FILE";
    const KEY: &str = "CUITTY_WEBHOOKS_KEY_FILE";
    let (authority, clients) = (Authority::new(), Authority::new());
    let app = with_tls(&authority.certify("server"))
        .set("api.tls.client_ca_file", clients.cert().display())
        .start()
        .await;
    let ca = authority.cert();
    let client = clients.certify("client");
    let whole = [(CA, &*ca), (CERT, &*client.cert), (KEY, &*client.key)];

    let [listed, answered] = command_line(&app, &whole);
    assert_eq!(listed.json_lines(), Vec::<serde_json::Value>::new());
    assert_eq!(answered.json(), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));

    // Who cannot show a certificate, or trusts nobody who vouches for the server.
    for files in [&whole[..1], &whole[1..]] {
        let [listed, answered] = command_line(&app, files);
        assert_eq!(listed.code, Some(1), "{listed:?}");
        assert_eq!(answered.json()["error"]["code"], -32603);
    }
    let [listed, answered] = command_line(&app, &whole[..2]);
    for ran in [listed, answered] {
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(CERT) && ran.err.contains(KEY), "{}", ran.err);
    }
    let [missing, _] = command_line(&app, &[(CA, Path::new("/nonexistent/ca.pem"))]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.err.contains(CA), "{}", missing.err);
}

#[test]
fn files_that_cannot_be_used_are_problems_of_the_configuration() {
    let authority = Authority::new();
    let (server, other) = (authority.certify("server"), authority.certify("other"));
    let settings = |cert: &Path, key: &Path| {
        Settings::new(&nowhere(), "sqlite:unused.db")
            .set("api.tls.cert_file", cert.display())
            .set("api.tls.key_file", key.display())
    };
    let missing = Path::new("/nonexistent/cert.pem");
    for (settings, named) in [
        (settings(missing, &server.key), "api.tls.cert_file"),
        (settings(&server.key, &server.key), "api.tls.cert_file"),
        (settings(&server.cert, &other.key), "api.tls.key_file"),
        (
            settings(&server.cert, &server.key).set("api.tls.client_ca_file", missing.display()),
            "api.tls.client_ca_file",
        ),
    ] {
        for arguments in [
            &["config", "check"][..],
            &["config", "check", "--role", "api"],
            &["api"],
        ] {
            let output = command(arguments, &settings);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
        let output = command(&["config", "check", "--role", "dispatcher"], &settings);
        assert!(output.status.success(), "a dispatcher does not read them");
    }
    let output = command(&["config", "check"], &settings(&server.cert, &server.key));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
