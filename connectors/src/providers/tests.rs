//! What is replaced, and what is not read.

use std::io::Write;

use super::*;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn write(path: &Path, text: &str) {
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn providers(allowed: &Path) -> Providers {
    let paths = allowed.display().to_string();
    Providers::parse(&settings(&[
        ("config.providers", "file, secrets, env"),
        ("config.providers.file.class", "org.apache.kafka.common.config.provider.FileConfigProvider"),
        ("config.providers.file.param.allowed.paths", &paths),
        ("config.providers.secrets.class", "org.apache.kafka.common.config.provider.DirectoryConfigProvider"),
        ("config.providers.secrets.param.allowed.paths", &paths),
        ("config.providers.env.class", "org.apache.kafka.common.config.provider.EnvVarConfigProvider"),
        ("config.providers.env.param.allowlist.pattern", "CARGO_PKG_.*"),
    ]))
    .unwrap()
}

#[test]
fn references_are_replaced_wherever_they_stand() {
    let root = tempfile::tempdir().unwrap();
    let allowed = root.path().join("allowed");
    std::fs::create_dir(&allowed).unwrap();
    write(&allowed.join("db.properties"), "password=hunter2\nuser = joe");
    write(&allowed.join("token"), "t0ken");
    let at = allowed.display();
    let given = settings(&[
        ("url", &format!("db://${{file:{at}/db.properties:user}}:${{file:{at}/db.properties:password}}@host")),
        ("token", &format!("${{secrets:{at}:token}}")),
        ("crate", "${env:CARGO_PKG_NAME}"),
        ("path.format", "'year'=${YYYY} ${topic} ${vault:a:b} ${"),
    ]);
    let resolved = providers(&allowed).resolve(&given).unwrap();
    assert_eq!(resolved.settings["url"], "db://joe:hunter2@host");
    assert_eq!(resolved.settings["token"], "t0ken");
    assert_eq!(resolved.settings["crate"], "strandline-connectors");
    assert_eq!(resolved.settings["path.format"], given["path.format"], "what is no reference stays");
    assert_eq!(resolved.secrets.len(), 4);
    assert_eq!(Providers::default().resolve(&given).unwrap().settings, given, "off by default");
}

#[test]
fn nothing_is_read_that_is_not_allowed() {
    let root = tempfile::tempdir().unwrap();
    let allowed = root.path().join("allowed");
    std::fs::create_dir(&allowed).unwrap();
    write(&root.path().join("secret"), "key=hunter2");
    write(&allowed.join("good"), "key=value");
    std::os::unix::fs::symlink(root.path().join("secret"), allowed.join("link")).unwrap();
    let providers = providers(&allowed);
    let at = allowed.display();
    for wrong in [
        format!("${{file:{}/secret:key}}", root.path().display()),
        format!("${{file:{at}/../secret:key}}"),
        format!("${{file:{at}/link:key}}"),
        format!("${{secrets:{at}:../secret}}"),
        format!("${{secrets:{at}/..:secret}}"),
        format!("${{file:{at}/nowhere:key}}"),
        format!("${{file:{at}/good:other}}"),
        "${file:good:key}".to_owned(),
        "${file:key}".to_owned(),
        "${env:HOME}".to_owned(),
        "${env:x:CARGO_PKG_NAME}".to_owned(),
        "${env:CARGO_PKG_NO_SUCH}".to_owned(),
    ] {
        let error = providers.resolve(&settings(&[("k", &wrong)])).expect_err(&wrong);
        assert!(error.starts_with("k: ${") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_provider_without_its_allow_list_is_a_fault_of_the_worker() {
    let faults = Providers::parse(&settings(&[
        ("config.providers", "file,env,vault"),
        ("config.providers.vault.class", "com.example.Vault"),
    ]))
    .unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].contains("config.providers.file.param.allowed.paths"), "{faults:?}");
    assert!(faults[1].contains("param.allowlist.pattern") && faults[2].contains("com.example.Vault"), "{faults:?}");
}
