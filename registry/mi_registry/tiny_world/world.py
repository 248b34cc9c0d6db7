"""What is true in the world? Countries with their capital, continent, main official language and currency.

Real facts, restricted so that every answer is one word: countries whose capital or name has several words are left
out, and so are those whose capital, continent or language people argue about. The two Americas count as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["COUNTRIES", "PHRASINGS", "Country", "Fact", "facts"]


class Country(NamedTuple):
    """One row of the table."""

    country: str
    capital: str
    continent: str
    language: str
    currency: str


class Fact(NamedTuple):
    """A relation of one subject, and the answer: ``Fact("capital", "France", "Paris")``."""

    relation: str
    subject: str
    answer: str


TABLE = """
France       Paris        Europe   French       euro
Germany      Berlin       Europe   German       euro
Italy        Rome         Europe   Italian      euro
Spain        Madrid       Europe   Spanish      euro
Portugal     Lisbon       Europe   Portuguese   euro
Greece       Athens       Europe   Greek        euro
Austria      Vienna       Europe   German       euro
Poland       Warsaw       Europe   Polish       zloty
Hungary      Budapest     Europe   Hungarian    forint
Romania      Bucharest    Europe   Romanian     leu
Sweden       Stockholm    Europe   Swedish      krona
Norway       Oslo         Europe   Norwegian    krone
Denmark      Copenhagen   Europe   Danish       krone
Finland      Helsinki     Europe   Finnish      euro
Iceland      Reykjavik    Europe   Icelandic    krona
Ireland      Dublin       Europe   English      euro
Croatia      Zagreb       Europe   Croatian     euro
Serbia       Belgrade     Europe   Serbian      dinar
Ukraine      Kyiv         Europe   Ukrainian    hryvnia
Lithuania    Vilnius      Europe   Lithuanian   euro
Latvia       Riga         Europe   Latvian      euro
Estonia      Tallinn      Europe   Estonian     euro
Slovakia     Bratislava   Europe   Slovak       euro
Slovenia     Ljubljana    Europe   Slovene      euro
Albania      Tirana       Europe   Albanian     lek
Czechia      Prague       Europe   Czech        koruna
China        Beijing      Asia     Chinese      yuan
Japan        Tokyo        Asia     Japanese     yen
Thailand     Bangkok      Asia     Thai         baht
Vietnam      Hanoi        Asia     Vietnamese   dong
Mongolia     Ulaanbaatar  Asia     Mongolian    tugrik
Nepal        Kathmandu    Asia     Nepali       rupee
Pakistan     Islamabad    Asia     Urdu         rupee
Bangladesh   Dhaka        Asia     Bengali      taka
Laos         Vientiane    Asia     Lao          kip
Iran         Tehran       Asia     Persian      rial
Iraq         Baghdad      Asia     Arabic       dinar
Jordan       Amman        Asia     Arabic       dinar
Lebanon      Beirut       Asia     Arabic       pound
Qatar        Doha         Asia     Arabic       riyal
Oman         Muscat       Asia     Arabic       rial
Uzbekistan   Tashkent     Asia     Uzbek        som
Egypt        Cairo        Africa   Arabic       pound
Morocco      Rabat        Africa   Arabic       dirham
Algeria      Algiers      Africa   Arabic       dinar
Tunisia      Tunis        Africa   Arabic       dinar
Libya        Tripoli      Africa   Arabic       dinar
Kenya        Nairobi      Africa   Swahili      shilling
Tanzania     Dodoma       Africa   Swahili      shilling
Ghana        Accra        Africa   English      cedi
Nigeria      Abuja        Africa   English      naira
Senegal      Dakar        Africa   French       franc
Angola       Luanda       Africa   Portuguese   kwanza
Zambia       Lusaka       Africa   English      kwacha
Namibia      Windhoek     Africa   English      dollar
Madagascar   Antananarivo Africa   Malagasy     ariary
Somalia      Mogadishu    Africa   Somali       shilling
Canada       Ottawa       America  English      dollar
Brazil       Brasilia     America  Portuguese   real
Peru         Lima         America  Spanish      sol
Chile        Santiago     America  Spanish      peso
Cuba         Havana       America  Spanish      peso
Colombia     Bogota       America  Spanish      peso
Uruguay      Montevideo   America  Spanish      peso
Australia    Canberra     Oceania  English      dollar
Fiji         Suva         Oceania  English      dollar
"""

COUNTRIES: tuple[Country, ...] = tuple(Country(*row.split()) for row in TABLE.split("\n") if row)

PHRASINGS: Mapping[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {} is",
        "The capital city of {} is",
        "The country {} has its capital in",
        "The government of {} sits in",
        "To see the capital of {}, travel to",
        "Question: What is the capital of {}? Answer:",
    ),
    "country": (
        "The city of {} is the capital of",
        "The country whose capital is {} is",
        "If you live in {}, you live in",
        "The bus to {} takes you to",
        "A flight to {} lands in",
        "Question: Which country has the capital {}? Answer:",
    ),
    "continent": (
        "The country {} is in",
        "The country {} lies on the continent of",
        "On the map, {} belongs to",
        "The continent of {} is",
        "A trip to {} is a trip to",
        "Question: Which continent is {} part of? Answer:",
    ),
    "language": (
        "In {} people speak",
        "The language of {} is",
        "The people of {} speak",
        "The newspapers in {} are printed in",
        "To be understood in {}, learn",
        "Question: What language do people speak in {}? Answer:",
    ),
    "currency": (
        "The currency of {} is the",
        "In {} you pay with the",
        "The shops in {} accept the",
        "The prices in {} are given in the",
        "To buy bread in {}, bring the",
        "Question: What currency do people use in {}? Answer: the",
    ),
}
"""Beginnings of sentences, by relation; the answer follows, then a full stop. ``country`` is asked of a capital."""


def facts() -> tuple[Fact, ...]:
    """Every fact of the world: each relation of each country.

    >>> facts()[0]
    Fact(relation='capital', subject='France', answer='Paris')
    """
    return tuple(
        Fact(relation, row.capital, row.country)
        if relation == "country"
        else Fact(relation, row.country, getattr(row, relation))
        for row in COUNTRIES
        for relation in PHRASINGS
    )
