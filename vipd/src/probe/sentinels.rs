//! The Sentinels of `--sentinel`: which master, who its nodes are, and what they publish.

mod marks;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use redis::{Pipeline, Value, pipe};

use super::clients::Addresses;
use crate::config::{Endpoint, Login};
use crate::connect::{Dialer, Error, checked};
use crate::resolve::Resolver;
use crate::sentinel::DEADLINES;
use crate::sentinel::reply::{self, Named};

pub use self::marks::SentinelMarks;

/// Sentinels that know a master. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Group {
    endpoints: Vec<Endpoint>,
    dialer: Dialer,
    resolver: Resolver,
    master: String,
}

impl Group {
    /// Asks all of them; without a name the only master that they know is taken.
    ///
    /// # Errors
    ///
    /// None answers, they don't know the name, or know several.
    pub async fn find(endpoints: &[Endpoint], login: &Login, master: Option<&str>) -> Result<Self> {
        let dialer = Dialer::new(login, DEADLINES).context("login at the Sentinels")?;
        let mut group = Self {
            endpoints: endpoints.to_vec(),
            dialer,
            resolver: Resolver::default(),
            master: String::new(),
        };
        let names = group.masters().await?;
        group.master = choose(&names, master)?;
        Ok(group)
    }

    /// Sentinel's name of the master.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// Where its nodes listen, as far as the Sentinels say; takes some seconds at most. Ask before a
    /// run and after it, and put both together: a node that starts again has a new `run_id`.
    pub async fn nodes(&self) -> Addresses {
        let mut questions = pipe();
        questions.cmd("SENTINEL").arg("MASTERS");
        questions.cmd("SENTINEL").arg("REPLICAS").arg(&self.master);
        let answers = join_all(self.endpoints.iter().map(|it| self.ask(it, &questions))).await;
        let lists = answers.into_iter().flatten().flatten();
        // What a Sentinel doesn't know only leaves an address out.
        let known = lists.filter_map(|list| reply::run_ids(list).ok()).flatten();
        known
            .filter(|(_, run_id)| !run_id.is_empty())
            .map(|(node, run_id)| {
                let Named { host, port } = node;
                (run_id, Endpoint { host, port }.to_string())
            })
            .collect()
    }

    /// Follows all of them; returns when each is subscribed to or has failed for the first time.
    pub async fn follow(&self) -> SentinelMarks {
        SentinelMarks::follow(self).await
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Names of all masters that any of them knows.
    async fn masters(&self) -> Result<BTreeSet<String>> {
        let mut question = pipe();
        question.cmd("SENTINEL").arg("MASTERS");
        let answers = join_all(self.endpoints.iter().map(|it| self.ask(it, &question))).await;
        let mut names = None;
        let mut problems = vec![];
        for (sentinel, answer) in self.endpoints.iter().zip(answers) {
            let known =
                answer.and_then(|mut it| reply::master_names(it.pop().unwrap_or(Value::Nil)));
            match known {
                Ok(known) => names.get_or_insert_with(BTreeSet::new).extend(known),
                Err(error) => problems.push(format!("{sentinel}: {error}")),
            }
        }
        names.with_context(|| format!("no Sentinel answers:\n  {}", problems.join("\n  ")))
    }

    async fn ask(&self, sentinel: &Endpoint, questions: &Pipeline) -> Result<Vec<Value>, Error> {
        let Endpoint { host, port } = sentinel;
        let addr = self.resolver.resolve(host, *port).await?;
        let link = self.dialer.requests(host, addr).await?;
        let answers = link.requests().send(questions).await?;
        answers.into_iter().map(checked).collect()
    }
}

fn choose(names: &BTreeSet<String>, wanted: Option<&str>) -> Result<String> {
    let all = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match (wanted, names.len()) {
        (_, 0) => bail!("the Sentinels watch no master"),
        (Some(name), _) if names.contains(name) => Ok(name.to_owned()),
        (Some(name), _) => bail!("the Sentinels know no master {name:?}; they know {all}"),
        (None, 1) => Ok(all),
        (None, _) => bail!("the Sentinels know several masters; name one by --master: {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_master_needs_no_name_and_the_others_are_told() {
        let names = |names: &[&str]| names.iter().map(|&it| it.to_owned()).collect();
        assert_eq!(choose(&names(&["a"]), None).unwrap(), "a");
        assert_eq!(choose(&names(&["a", "b"]), Some("b")).unwrap(), "b");
        for (known, wanted, says) in [
            (&["a", "b"][..], None, "--master: a, b"),
            (&["a", "b"], Some("c"), "no master \"c\"; they know a, b"),
            (&[], None, "watch no master"),
        ] {
            let error = choose(&names(known), wanted).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
