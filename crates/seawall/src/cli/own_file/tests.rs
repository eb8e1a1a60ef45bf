//! How the file looks after a change.

use super::*;
use seawall_core::config::Secret;

fn own(text: &str) -> OwnFile {
    let path = PathBuf::from("/x/seawall.toml");
    OwnFile { before: Snapshot::missing(path.clone()), path, text: text.to_owned() }
}

fn imported(text: &str) -> String {
    let mut own = own(text);
    assert!(own.add_import(Path::new("/a b.json")).unwrap());
    assert!(!own.add_import(Path::new("/a b.json")).unwrap(), "it is not doubled");
    own.text
}

#[test]
fn an_import_is_added_where_it_belongs_and_comments_stay() {
    assert_eq!(imported(""), "import = [\"/a b.json\"]\n");
    assert_eq!(imported("# c\n#import = []\n# d\n"), "# c\nimport = [\"/a b.json\"]\n# d\n");
    assert_eq!(
        imported("[limits]\ntotal = 1 # c\n"),
        "import = [\"/a b.json\"]\n\n[limits]\ntotal = 1 # c\n"
    );
    assert_eq!(imported("import = [\"b\"] # c\n"), "import = [\"b\", \"/a b.json\"] # c\n");
    let spread = imported("import = [\n  \"b\", # c\n  \"c\"\n]\n");
    assert_eq!(spread, "import = [\n  \"b\", # c\n  \"c\",\n  \"/a b.json\"\n]\n");
    let beside = imported("grace = \"1s\" # c\n[limits]\ntotal = 1\n");
    assert!(beside.starts_with("grace = \"1s\" # c\nimport = [\"/a b.json\"]\n[limits]"), "{beside}");
}

fn stdio(command: &str) -> Table {
    let kind = Kind::Stdio {
        command: command.to_owned(),
        args: vec!["b".to_owned()],
        env: [("K".to_owned(), Secret::new("${V}"))].into(),
        cwd: None,
    };
    let config = config::lower(&Sources {
        own: Some(Source {
            path: PathBuf::from("t"),
            text: "[servers.x]\ncommand = \"x\"\ntimeout = \"90s\"".into(),
        }),
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: PathBuf::new(),
        base: PathBuf::new(),
    });
    table(&kind, Some(&config.unwrap().0.upstreams[0]))
}

#[test]
fn a_server_is_added_at_the_end_or_put_in_the_place_of_the_old_one() {
    let mut file = own("# all comments\n#listen = 1\n");
    file.put_server("x", stdio("one")).unwrap();
    let server =
        "[servers.x]\ncommand = \"one\"\nargs = [\"b\"]\nenv = { K = \"${V}\" }\ntimeout = \"90s\"\n";
    assert_eq!(file.text, format!("# all comments\n#listen = 1\n\n{server}"));
    assert!(file.has_server("x").unwrap() && !file.has_server("y").unwrap());

    let mut file = own(
        "# first\n[servers.x]\nurl = \"u\" # old\n[servers.x.tools.t]\neffects = \"none\"\n# y\n[servers.y]\nurl = \"v\"\n",
    );
    file.put_server("x", stdio("one")).unwrap();
    assert_eq!(file.text, format!("# first\n{server}# y\n[servers.y]\nurl = \"v\"\n"));
}

#[test]
fn a_server_is_known_by_how_it_is_reached() {
    let text =
        "[servers]\na = { command = \"one\", args = [\"b\"] }\n[servers.b]\nurl = \"https://h/?k=${A_K}\"\n";
    let file = own(text);
    let file = OwnFile { before: file.before.holding(Some(text.into())), ..file };
    assert!(file.had_alike(&stdio("one")) && !file.had_alike(&stdio("two")));
    let url = |url: &str| {
        table(
            &Kind::Http {
                transport: Transport::of(url),
                url: url.to_owned(),
                headers: Vec::new(),
                ca_file: None,
            },
            None,
        )
    };
    assert!(file.had_alike(&url("https://h/?k=${B_K}")) && !file.had_alike(&url("https://h/?k=v")));
}

#[tokio::test]
async fn what_is_wrong_is_told_without_the_line_and_a_link_to_nothing_stays() {
    let Err(failure) = own("a = 1\nb = \"s3cret\n").document() else { panic!("it is no TOML") };
    let text = failure.to_string();
    assert!(text.contains("line 2") && !text.contains("s3cret"), "{text}");

    let path = std::env::temp_dir().join(format!("seawall-own-file-{}.toml", std::process::id()));
    fs::symlink("/nowhere/seawall.toml", &path).await.unwrap();
    let opened = OwnFile::open(Some(&path)).await;
    let Err(failure) = opened else { panic!("it leads nowhere") };
    assert!(failure.to_string().contains("symbolic link"), "{failure}");
    assert!(fs::symlink_metadata(&path).await.unwrap().is_symlink());
    fs::remove_file(&path).await.unwrap();
}
