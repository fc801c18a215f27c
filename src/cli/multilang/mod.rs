//! `shardkeeper multilang`: the worker of `run`, with its options from a properties file of KCL's MultiLangDaemon.
//!
//! - [`properties`]: the file as the JVM reads it. [`mapping`]: its keys as options of `run`.
//! - [`without_java`]: the command line of launchers that call `java`.

pub mod mapping;
pub mod properties;

use std::ffi::OsString;

/// The arguments without those of the JVM that stand between `multilang` and the daemon's own: options, the class path
/// and the class.
pub fn without_java(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut kept: Vec<OsString> = arguments.by_ref().take(2).collect();
    if kept.get(1).is_none_or(|word| word != "multilang") {
        kept.extend(arguments);
        return kept;
    }
    let mut arguments = arguments.peekable();
    while let Some(word) = arguments.peek().map(|word| word.to_string_lossy().into_owned()) {
        let takes_value = ["-cp", "-classpath", "--class-path"].contains(&&*word);
        let is_option =
            ["-D", "-X", "-javaagent:", "-ea", "-server", "--class-path="].iter().any(|of| word.starts_with(of));
        let is_class = word.ends_with("MultiLangDaemon");
        if !(takes_value || is_option || is_class) {
            break;
        }
        arguments.next();
        if takes_value {
            arguments.next();
        }
    }
    kept.extend(arguments);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(line: &str) -> String {
        let kept = without_java(line.split_whitespace().map(OsString::from));
        kept.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_launchers_command_line_loses_what_is_the_jvms() {
        let class = "software.amazon.kinesis.multilang.MultiLangDaemon";
        assert_eq!(
            kept(&format!("shardkeeper multilang -Xmx1g -cp a.jar:b.jar {class} --properties-file f -l x.xml")),
            "shardkeeper multilang --properties-file f -l x.xml"
        );
        assert_eq!(kept(&format!("shardkeeper multilang -Da=b {class} f")), "shardkeeper multilang f");
        assert_eq!(kept("shardkeeper multilang f --app a"), "shardkeeper multilang f --app a");
        assert_eq!(kept("shardkeeper run -cp f"), "shardkeeper run -cp f");
    }
}
