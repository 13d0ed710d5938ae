//! Sentences from patterns, filled with WordNet's common words: captions, reports, questions to a
//! help desk. What they say need not be so; the teacher embeds them all the same.

use super::random::Random;
use super::wordnet::{Verb, WordNet};

const PLACES: [&str; 28] = [
    "the park",
    "the street",
    "the kitchen",
    "a field",
    "the beach",
    "the office",
    "the garden",
    "a table",
    "the water",
    "the snow",
    "the stage",
    "the station",
    "the airport",
    "the school",
    "the market",
    "a bench",
    "the house",
    "the road",
    "the floor",
    "the grass",
    "a room",
    "the hospital",
    "the city",
    "the river",
    "a bed",
    "the car",
    "the shop",
    "a boat",
];
const COUNTRIES: [&str; 24] = [
    "France",
    "Iraq",
    "China",
    "India",
    "Russia",
    "Egypt",
    "Syria",
    "Iran",
    "Japan",
    "Brazil",
    "Mexico",
    "Germany",
    "Israel",
    "Pakistan",
    "Ukraine",
    "Britain",
    "Spain",
    "Turkey",
    "Kenya",
    "Italy",
    "Canada",
    "Australia",
    "North Korea",
    "the United States",
];
const COLOURS: [&str; 12] = [
    "black", "white", "red", "blue", "green", "yellow", "brown", "grey", "pink", "orange", "small",
    "large",
];
const NUMBERS: [&str; 14] = [
    "two", "three", "four", "five", "six", "ten", "2", "3", "12", "15", "20", "30", "50", "100",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const ADVERBS: [&str; 10] = [
    "quickly",
    "slowly",
    "carefully",
    "again",
    "together",
    "alone",
    "quietly",
    "happily",
    "outside",
    "at night",
];

const PATTERNS: [&str; 62] = [
    "{A:person} is {ving:t} {a:thing}.",
    "{A:person} is {ving:t} {a:thing} in {place}.",
    "{A:person} is {ving:i}.",
    "{A:person} is {ving:i} in {place}.",
    "{A:person} is {ving:i} {adverb}.",
    "{A:animal} is {ving:i}.",
    "{A:animal} is {ving:i} in {place}.",
    "{A:animal} is {ving:t} {a:food}.",
    "{A:colour} {animal} is {ving:i} near {place}.",
    "{A:colour} {animal} and {a:colour} {animal} are {ving:i} in {place}.",
    "{A:person} in {a:colour} {clothes} is {ving:i}.",
    "{A:person} with {a:thing} {ving:t} {a:colour} {thing} on {place}.",
    "{N} {person}s are {ving:i} on {place}.",
    "{N} {animal}s {ving:i} in {place}.",
    "A group of {person}s is {ving:t} {a:thing}.",
    "The {person} {past:t} the {thing}.",
    "The {person} {past:t} the {food} {adverb}.",
    "The {person} is not {ving:i}.",
    "There is no {person} {ving:t} {a:thing}.",
    "{A:person} and {a:person} are {ving:i} {adverb}.",
    "The {adj} {person} is {ving:t} the {thing} with {a:thing}.",
    "{A:adj} {thing} on {place}.",
    "{A:colour} {thing} next to {a:colour} {thing}.",
    "{A:thing} is sitting on {place}.",
    "Someone is {ving:t} some {food}.",
    "Someone {past:t} my {thing}.",
    "{country} {person} {past:t} {act}",
    "{n} killed in {country} {event}",
    "{country} {act}: {n} {person}s {past:i}",
    "{country}'s {person} says {act} is {adj}",
    "{person}s {past:t} {group} in {country}",
    "{n} {person}s hurt after {event} near {place} in {country}",
    "The {group} said on {day} that it would {verb:t} the {act}.",
    "The {person} told the {group} that the {act} was {adj}.",
    "Shares of the {group} fell {n} percent to ${n} on {day}.",
    "Police said {n} {person}s were {past:t} during the {event} on {day}.",
    "The {group} plans to {verb:t} {n} {thing}s by {day}, the {person} said.",
    "{country} and {country} {past:t} the {act} on {day}.",
    "How do I {verb:t} the {thing}?",
    "How can I {verb:t} {a:thing} without {a:thing}?",
    "Why is my {thing} {adj}?",
    "Why does the {thing} not {verb:i}?",
    "What should I do if the {thing} {past:i}?",
    "Where can I {verb:t} my {thing}?",
    "Can I {verb:t} {a:thing} with {a:thing}?",
    "Is it possible to {verb:t} {a:thing} {adverb}?",
    "My {thing} is {adj}, what should I do?",
    "I cannot {verb:t} the {thing}, it says that the {thing} is {adj}.",
    "You can {verb:t} the {thing} with the {thing}.",
    "To {verb:t} the {thing}, {verb:t} the {thing} and then {verb:t} it.",
    "The {thing} is {adj}. Please {verb:t} it and {verb:t} the {thing}.",
    "If the {thing} does not {verb:i}, {verb:t} the {thing} first.",
    "You should {verb:t} the {food} before you {verb:t} it.",
    "I think that you should {verb:t} the {act}.",
    "It depends on what you {verb:t} and how {adj} the {thing} is.",
    "Do you {verb:t} {food} or {food}?",
    "I have {a:animal} and {n} {animal}s.",
    "My {person} likes to {verb:t} {food}.",
    "What is the {adj} way to {verb:t} {a:animal}?",
    "What is the difference between {a:thing} and {a:thing}?",
    "The {attribute} of the {thing} is {adj}.",
    "{A:person} feels {adj} about the {act}.",
];

/// `count` sentences.
pub fn sentences(wordnet: &WordNet, count: usize, random: &mut Random) -> Vec<String> {
    let words = Words::new(wordnet);
    (0..count)
        .map(|_| {
            let pattern = *random.choose(&PATTERNS);
            words.fill(pattern, random)
        })
        .collect()
}

struct Words {
    person: Vec<String>,
    animal: Vec<String>,
    thing: Vec<String>,
    food: Vec<String>,
    act: Vec<String>,
    event: Vec<String>,
    group: Vec<String>,
    attribute: Vec<String>,
    adj: Vec<String>,
    transitive: Vec<Verb>,
    intransitive: Vec<Verb>,
}

impl Words {
    fn new(wordnet: &WordNet) -> Self {
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        // Captions speak of the same few over and over.
        let mut person = wordnet.words(&[18], 300);
        let mut common = Vec::new();
        for _ in 0..25 {
            common.extend(strings(&["man", "woman", "boy", "girl", "person", "child"]));
        }
        person.append(&mut common);
        let mut animal = wordnet.words(&[5], 120);
        for _ in 0..10 {
            animal.extend(strings(&["dog", "cat", "horse", "bird"]));
        }
        let verbs = |wanted: fn(&Verb) -> bool| {
            let verbs = wordnet.verbs.iter().filter(|verb| wanted(verb));
            verbs.take(700).cloned().collect::<Vec<_>>()
        };
        Self {
            person,
            animal,
            thing: wordnet.words(&[6], 900),
            food: wordnet.words(&[13], 150),
            act: wordnet.words(&[4], 400),
            event: wordnet.words(&[11, 19], 80),
            group: wordnet.words(&[14], 120),
            attribute: wordnet.words(&[7], 200),
            adj: wordnet.words(&[0], 700),
            transitive: verbs(|verb| verb.transitive),
            intransitive: verbs(|verb| verb.intransitive),
        }
    }

    /// A pattern with every `{…}` replaced.
    fn fill(&self, pattern: &str, random: &mut Random) -> String {
        let mut out = String::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, after) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(before);
            out.push_str(&self.slot(slot, random));
            rest = after;
        }
        out + rest
    }

    fn slot(&self, slot: &str, random: &mut Random) -> String {
        let (kind, of) = slot.split_once(':').unwrap_or((slot, ""));
        let mut verb = || match of {
            "t" => random.choose(&self.transitive).clone(),
            _ => random.choose(&self.intransitive).clone(),
        };
        match kind {
            "verb" => verb().base,
            "past" => verb().past,
            "ving" => verb().gerund,
            "a" | "A" => {
                let word = self.word(of, random);
                let an = word.starts_with(['a', 'e', 'i', 'o', 'u']);
                match (kind, an) {
                    ("a", false) => format!("a {word}"),
                    ("a", true) => format!("an {word}"),
                    (_, false) => format!("A {word}"),
                    (_, true) => format!("An {word}"),
                }
            }
            "N" => {
                let number = *random.choose(&NUMBERS[..6]);
                number[..1].to_uppercase() + &number[1..]
            }
            other => self.word(other, random),
        }
    }

    fn word(&self, kind: &str, random: &mut Random) -> String {
        let fixed: &[&str] = match kind {
            "place" => &PLACES,
            "country" => &COUNTRIES,
            "colour" => &COLOURS,
            "n" => &NUMBERS,
            "day" => &DAYS,
            "adverb" => &ADVERBS,
            "clothes" => &["shirt", "dress", "coat", "hat", "jacket", "suit"],
            _ => &[],
        };
        if !fixed.is_empty() {
            return (*random.choose(fixed)).to_owned();
        }
        let words = match kind {
            "person" => &self.person,
            "animal" => &self.animal,
            "food" => &self.food,
            "act" => &self.act,
            "event" => &self.event,
            "group" => &self.group,
            "attribute" => &self.attribute,
            "adj" => &self.adj,
            _ => &self.thing,
        };
        random.choose(words).clone()
    }
}
