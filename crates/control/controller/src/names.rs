//! Names for apps that come without (P8): `<animal>-<verb>-<town>`.

use sha2::{Digest as _, Sha256};

const ANIMALS: &str = "ant ape auk bat bear bee bison boar buck calf camel carp cat chick cobra cod colt crab crane crow \
    cub deer dingo dog dove duck eagle eel elk emu ewe fawn finch fish fox frog gecko gnat goat goose grouse gull hare \
    hawk hen heron hippo horse ibex ibis jay kite koala lamb lark lemur lion llama lynx mole moose moth mouse mule newt \
    otter owl ox panda pika pony puma quail ram raven robin seal shrew skunk sloth snail snake stork swan tapir tiger \
    toad trout tuna viper vole wasp whale wolf wombat wren yak zebra";
const VERBS: &str = "adds aims asks bakes beams bends binds blinks blows boils bows builds buys calls cares chats cheers \
    claps climbs cooks copes counts crawls dances dares digs dines dips dives draws dreams drifts drives eats fades \
    falls fetches finds fits floats flows flies folds forms gains gazes gives glides glows grins grows guards guides \
    hears helps hides hikes hops hugs hums hunts jogs jokes jumps keeps knits knows lands laughs leads leaps learns \
    lends lifts listens looks makes marches meets melts mends moves nods opens paints peeks plays pours races reads \
    rests rides rings rises roams roars rows runs sails sees sends sews shares shines sings sits skips sleeps smiles \
    soars speaks spins stands stays steps swims swings talks teaches tells thinks throws trots tries turns waits wakes \
    walks warms waves whirls wins winks works writes yawns";
const TOWNS: &str = "aachen aarhus adams akron albany alta amiens ames apex arles arras athens aurora austin avon banff \
    basel bath berne bergen berlin boise bolton bonn boston brest bristol brno buxton cadiz cairo calais camden cannes \
    cardiff chester cork crewe dallas delft denver derby dijon dover dublin durham eden elgin erie essen exeter fargo \
    florence fulda geneva genoa ghent girona graz hague hanover havre hilo hull ipswich jena juneau kent kiel kobe \
    kyoto laredo leeds leiden leon lille lima linz lisbon lodi lund lyon macon madrid malaga malmo mesa metz miami \
    milan minsk mobile nancy nantes naples nice nome norwich novi odense ohrid oslo ottawa oxford padua paris parma \
    perth pisa plano porto prague provo quebec reims reno riga rome rouen salem siena skye sofia split tallinn tampa \
    toledo trento trier troy tulsa turin turku ulm utica vaduz verona vienna vigo waco warsaw worms yakima york zurich";

/// The name of a number. Different numbers below the count of names have different names.
pub(crate) fn name(seed: &[u8], number: u32) -> String {
    let words = |list: &'static str| list.split_whitespace().collect::<Vec<_>>();
    let (animals, verbs, towns) = (words(ANIMALS), words(VERBS), words(TOWNS));
    let count = animals.len() * verbs.len() * towns.len();
    let mut index = permute(seed, number);
    // A permutation, walked until it comes back below the count, is one of the numbers below it.
    while usize::try_from(index).is_ok_and(|index| index >= count) {
        index = permute(seed, index);
    }
    let index = usize::try_from(index).unwrap_or_default();
    let animal = animals[index % animals.len()];
    let verb = verbs[index / animals.len() % verbs.len()];
    let town = towns[index / animals.len() / verbs.len() % towns.len()];
    format!("{animal}-{verb}-{town}")
}

/// Bits of half a number: the smallest square of a power of two above the count of names.
const HALF: u32 = 11;

/// A permutation of the numbers with twice [`HALF`] bits: a balanced Feistel network with hashes as its functions (Luby
/// and Rackoff, "How to Construct Pseudorandom Permutations from Pseudorandom Functions", 1988). Nothing is secret here.
fn permute(seed: &[u8], number: u32) -> u32 {
    const MASK: u32 = (1 << HALF) - 1;
    let (mut left, mut right) = (number >> HALF & MASK, number & MASK);
    for round in 0..6_u8 {
        let hash = Sha256::new().chain_update(seed).chain_update([round]).chain_update(right.to_be_bytes()).finalize();
        (left, right) = (right, left ^ u32::from(u16::from_be_bytes([hash[0], hash[1]])) & MASK);
    }
    left << HALF | right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p8_names_are_valid_and_differ() {
        let names: std::collections::BTreeSet<_> = (1..200).map(|number| name(b"0123456789", number)).collect();
        assert_eq!(names.len(), 199);
        for name in &names {
            assert_eq!(flynn_types::controller::check_app_name(name), Ok(()), "{name}");
        }
        assert_ne!(name(b"0123456789", 1), name(b"9876543210", 1));
    }
}
