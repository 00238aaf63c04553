//! Decides which names of a hard-link group get content and which become links.
//!
//! Why: an inode is what is copied, names are what the plan speaks of. What can go wrong: an inode on the standby
//! that has names outside the scope, or names that are separate files on the source. Such an inode is never changed
//! in place; it is replaced, so that what is out of scope stays as it was ([`Attributes::LINKS`] says so).

use std::collections::{BTreeMap, HashMap};

use super::{Change, Item};
use crate::tree::{Attributes, Kind, LinkGroup, RelPath};

/// What the standby has at a path that will be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyInode {
    /// Equal for names of one inode.
    pub inode: u64,
    /// How many names it has in all.
    pub links: u32,
    /// Its group among the names in scope.
    pub group: Option<LinkGroup>,
}

impl StandbyInode {
    fn in_scope(&self) -> u32 {
        self.group.map_or(1, |group| group.members)
    }
}

/// A planned change before links are settled.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The change as if every name were an inode.
    pub item: Item,
    /// What is there now, for an update.
    pub standby: Option<StandbyInode>,
}

/// Settles links: gives each group on the source one name that carries content and metadata, makes the others
/// links to it, and drops what turns out to be right already. Drafts are in path order and stay so.
#[must_use]
pub fn resolve_links(drafts: Vec<Draft>) -> Vec<Item> {
    let mut groups: BTreeMap<[u8; 16], Vec<usize>> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if let Some(group) =
            draft.item.entry.links.filter(|_| !matches!(draft.item.change, Change::Delete(_)))
        {
            groups.entry(group.key).or_default().push(index);
        }
    }
    let mut fates: Vec<Fate> = drafts.iter().map(single).collect();
    for members in groups.values() {
        settle(&drafts, members, &mut fates);
    }
    drafts
        .into_iter()
        .zip(fates)
        .filter_map(|(draft, fate)| {
            let mut item = draft.item;
            match fate {
                Fate::Drop => return None,
                Fate::Keep(change) => item.change = change,
                Fate::Link(leader) => item.link_to = Some(leader),
            }
            Some(item)
        })
        .collect()
}

enum Fate {
    /// Nothing to do.
    Drop,
    /// Changed as an inode of its own.
    Keep(Change),
    /// Made a link to that path.
    Link(RelPath),
}

/// The fate of a name that is the only one of its inode on the source.
fn single(draft: &Draft) -> Fate {
    match (draft.item.change, draft.standby) {
        (Change::Update(attributes), Some(standby))
            if draft.item.entry.kind != Kind::Directory && standby.links > 1 =>
        {
            Fate::Keep(Change::Update(attributes | Attributes::LINKS))
        }
        (change, _) => Fate::Keep(change),
    }
}

fn settle(drafts: &[Draft], members: &[usize], fates: &mut [Fate]) {
    let attributes_of = |index: usize| match drafts[index].item.change {
        Change::Update(attributes) => Some(attributes),
        _ => None,
    };
    // An inode can stay when it already is what the source has, and all its names are members of this group.
    let mut here: HashMap<u64, u32> = HashMap::new();
    for standby in members.iter().filter_map(|index| drafts[*index].standby) {
        *here.entry(standby.inode).or_default() += 1;
    }
    let stays = |index: usize| {
        let Some(attributes) = attributes_of(index) else { return false };
        drafts[index].standby.is_some_and(|standby| {
            let count = here.get(&standby.inode).copied().unwrap_or(0);
            !attributes.contains(Attributes::CONTENT) && count == standby.in_scope() && count == standby.links
        })
    };
    let Some(leader) = members.iter().copied().find(|index| stays(*index)).or(members.first().copied())
    else {
        return;
    };
    let kept_inode = drafts[leader].standby.filter(|_| stays(leader)).map(|standby| standby.inode);
    for &index in members {
        let change = drafts[index].item.change;
        fates[index] = match (kept_inode, change) {
            (Some(_), Change::Update(attributes)) if index == leader => {
                match attributes.without(Attributes::LINKS) {
                    none if none.is_empty() => Fate::Drop,
                    rest => Fate::Keep(Change::Update(rest)),
                }
            }
            (None, Change::Update(attributes)) if index == leader => {
                Fate::Keep(Change::Update(attributes | Attributes::LINKS))
            }
            (_, change) if index == leader => Fate::Keep(change),
            (Some(kept), _) if drafts[index].standby.is_some_and(|s| s.inode == kept) => Fate::Drop,
            _ => Fate::Link(drafts[leader].item.path.clone()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Entry;

    fn draft(
        path: &str,
        change: Change,
        group: Option<u8>,
        standby: Option<(u64, u32, Option<u8>)>,
    ) -> Draft {
        let links = group.map(|key| LinkGroup { key: [key; 16], members: 2 });
        let entry = Entry { links, ..Entry::new(Kind::File) };
        let path = RelPath::new(path).unwrap();
        let standby = standby.map(|(inode, links, group)| StandbyInode {
            inode,
            links,
            group: group.map(|key| LinkGroup { key: [key; 16], members: 2 }),
        });
        Draft { item: Item { path, change, entry, link_to: None, moved_from: None }, standby }
    }

    fn shown(items: &[Item]) -> Vec<String> {
        let show = |item: &Item| match &item.link_to {
            Some(leader) => format!("{} -> {leader}", item.path),
            None => format!("{} {:?}", item.path, item.change),
        };
        items.iter().map(show).collect()
    }

    const LINKS: Change = Change::Update(Attributes::LINKS);

    #[test]
    fn a_new_group_is_created_once_and_linked() {
        let drafts =
            vec![draft("a", Change::Create, Some(1), None), draft("b", Change::Create, Some(1), None)];
        assert_eq!(shown(&resolve_links(drafts)), ["/a Create", "/b -> /a"]);
    }

    #[test]
    fn a_missing_name_is_linked_to_the_inode_that_is_there() {
        let drafts =
            vec![draft("a", Change::Create, Some(1), None), draft("b", LINKS, Some(1), Some((7, 1, None)))];
        assert_eq!(shown(&resolve_links(drafts)), ["/a -> /b"]);
    }

    #[test]
    fn an_inode_with_a_name_outside_the_scope_is_replaced() {
        let mode = Change::Update(Attributes::MODE);
        let drafts = vec![draft("a", mode, None, Some((7, 2, None)))];
        let both = Change::Update(Attributes::MODE | Attributes::LINKS);
        assert_eq!(shown(&resolve_links(drafts)), [format!("/a {both:?}")]);
    }

    #[test]
    fn one_metadata_change_serves_all_names() {
        let mode = Change::Update(Attributes::MODE);
        let there = Some((7, 2, Some(1)));
        let drafts = vec![draft("a", mode, Some(1), there), draft("b", mode, Some(1), there)];
        assert_eq!(shown(&resolve_links(drafts)), [format!("/a {mode:?}")]);
    }

    #[test]
    fn new_content_means_a_new_inode_for_all_names() {
        let content = Change::Update(Attributes::CONTENT);
        let there = Some((7, 2, Some(1)));
        let drafts = vec![draft("a", content, Some(1), there), draft("b", content, Some(1), there)];
        let leader = Change::Update(Attributes::CONTENT | Attributes::LINKS);
        assert_eq!(shown(&resolve_links(drafts)), [format!("/a {leader:?}"), "/b -> /a".to_owned()]);
    }

    #[test]
    fn names_that_are_separate_on_the_source_are_separated() {
        let drafts = vec![
            draft("a", LINKS, None, Some((7, 2, Some(1)))),
            draft("b", LINKS, None, Some((7, 2, Some(1)))),
        ];
        assert_eq!(shown(&resolve_links(drafts)), [format!("/a {LINKS:?}"), format!("/b {LINKS:?}")]);
    }
}
